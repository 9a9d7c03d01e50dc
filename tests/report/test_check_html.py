"""The page: whole, self-contained, with its pictures, and nobody's names become markup."""

import math
import re
from html.parser import HTMLParser

import pytest

from bnfold import report
from bnfold.checking import result as r
from bnfold.checking.result import Verdict
from bnfold.report import svg
from bnfold.report.html_page import text
from bnfold.report.text import figure
from tests.report import results
from tests.report.results import RESULTS

EVERY = pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
VOID = {"meta", "br"}
KNOWN = {
    "html", "head", "body", "meta", "title", "style", "header", "section", "h1", "h2", "h3", "p", "ul", "li", "div",
    "span", "b", "br", "code", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "figure",
    "figcaption", "svg", "rect", "path", "circle", "text",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "open", "viewbox", "role", "aria-label", "d", "x", "y",
    "cx", "cy", "r", "rx", "width", "height", "text-anchor",
}  # fmt: skip


class Page(HTMLParser):
    """Every tag that a browser would see, with proof that they nest."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], set(), [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@EVERY
def test_the_page_is_whole_and_shows_the_verdict(make):
    result = make()
    source = report.render(result, "html")
    page = Page(source)
    assert set(page.tags) <= KNOWN
    assert page.attributes <= ATTRIBUTES
    assert f'<h1>bnfold check <span class="verdict {result.verdict}">' in source
    assert {"different", "verified", "unverified", "skipped"} & set(re.findall(r'class="verdict (\w+)"', source))


@EVERY
def test_nothing_is_asked_of_anybody(make):
    source = report.render(make(), "html")
    assert "default-src 'none'" in source
    assert not re.search(r"<(script|link|iframe|img|object|embed|base|form|a)\b", source)
    assert not re.search(r"\b(src|href|srcset|on\w+)\s*=\s*[\"']", re.sub(r"&\w+;|&#x?\w+;", "", source))
    assert "url(" not in source
    assert "@import" not in source


def test_hostile_names_stay_text():
    source = report.render(results.hostile(), "html")
    assert "<script" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert not set("\x1b\u202e\ud800") & set(source)
    words = " ".join(Page(source).words)
    assert words.count("<script>alert(1)</script>]]>|`x` ::error::\\x1b[31m\\u202e@all\\ud800") > 20


def test_an_escape_that_is_lost_is_found(monkeypatch):
    monkeypatch.setattr("bnfold.report.check_html.text", lambda raw: raw)
    assert "<script" in report.render(results.hostile(), "html")


def test_there_is_a_light_and_a_dark_page():
    source = report.render(results.verified(), "html")
    assert "color-scheme: light dark" in source
    assert "@media (prefers-color-scheme: dark)" in source
    defined = set(re.findall(r"(--\w+):", source))
    assert set(re.findall(r"var\((--\w+)\)", source)) <= defined


def test_the_failing_run_stands_open_and_the_other_closed():
    source = report.render(results.different(), "html")
    assert re.search(r'<details class="card" open><summary><span class="verdict different">[^<]*</span> b.onnx', source)
    assert re.search(r'<details class="card"><summary><span class="verdict verified">[^<]*</span> a.onnx', source)


def test_each_picture_is_there():
    source = report.render(results.different(), "html")
    labels = re.findall(r'aria-label="([^"]*)"', source)
    assert labels.count("Error by layer") == 1
    assert labels.count("Histogram of distance to the truth, ULP") == 3
    assert labels.count("Worst channels") == 3
    assert labels.count("Largest difference by layer, in ULP of the largest term") == 1


def test_histogram_gives_each_side_its_shares():
    left = (r.Bin(0.0, 0.5, 3), r.Bin(0.5, 1.0, 1))
    right = (r.Bin(0.5, 1.0, 2), r.Bin(4.0, math.inf, 2))
    drawn = svg.histogram(left, right, figure, "ULP")
    assert re.findall(r"<title>(.*?)</title>", drawn) == [
        "reference: 75.00% of the elements from 0 to 0.5", "candidate: 0.00% of the elements from 0 to 0.5",
        "reference: 25.00% of the elements from 0.5 to 1", "candidate: 50.00% of the elements from 0.5 to 1",
        "reference: 0.00% of the elements from 1 to 4", "candidate: 0.00% of the elements from 1 to 4",
        "reference: 0.00% of the elements from 4 to inf", "candidate: 50.00% of the elements from 4 to inf",
    ]  # fmt: skip
    heights = [float(x) for x in re.findall(r'<rect class="\w+".*?height="([\d.]+)"', drawn)]
    assert heights[0] == max(heights)
    assert heights[3] == pytest.approx(heights[0] * 50 / 75, rel=0.01)
    assert heights[1] == heights[4] == 0


def test_a_histogram_whose_bins_have_no_name():
    """One number on either side, an error between two decades."""
    only = (r.Bin(-7.5, -7.0, 1),)
    assert "100.00% of the elements from -7.5 to -7" in svg.histogram(only, only, lambda low: "", "log10")


def test_a_bar_beyond_its_budget_is_longer_and_marked():
    drawn = svg.bars([svg.Ratio("a", 9.0, 3.0), svg.Ratio("b", 1.5, 3.0), svg.Ratio("c", math.nan, 3.0)], "what")
    found = re.findall(r'<rect class="(over|candidate)".*?width="([\d.]+)"', drawn)
    assert [kind for kind, _ in found] == ["over", "candidate", "over"]
    assert float(found[0][1]) == pytest.approx(6 * float(found[1][1]), rel=0.01)


def test_layers_mark_where_they_part():
    drawn = svg.layers(results.divergence().layers)
    assert re.findall(r'<circle class="(\w+)"', drawn) == ["candidate"] * 2 + ["over"] * 4
    assert "nan" not in re.sub("<title>.*?</title>", "", drawn)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_layers_with_odd_numbers_are_drawn_within_the_picture(value):
    drawn = svg.layers([r.LayerError("a", "a", value, value, 1e-7), r.LayerError("b", "b", 1e-7, value, value)])
    places = [float(y) for y in re.findall(r'cy="([^"]*)"', drawn)]
    assert all(0 <= y <= 190 for y in places)


def test_nothing_to_draw_draws_nothing():
    assert svg.histogram((), (), figure, "ULP") == svg.bars([], "x") == svg.layers([]) == ""


def test_a_huge_check_makes_a_page_that_opens():
    outputs = tuple(results.output(f"y{i}", Verdict.DIFFERENT) for i in range(300))
    audit = tuple(r.AuditRow(f"conv{i}", c, 9.0, 1.0) for i in range(100) for c in range(100))
    source = report.render(results.check(results.run(outputs=outputs), audit=audit), "html")
    assert len(source) < 2_000_000
    assert "and 9,800 more" in source


def test_text_is_safe_in_attributes():
    assert text("\"'<>&\n\x00") == "&quot;&#x27;&lt;&gt;&amp; \\x00"
