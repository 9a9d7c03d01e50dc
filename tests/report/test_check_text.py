"""JUnit, SARIF, Markdown and annotations: none is better than the verdict, and names of others stay names."""

import json
import re
from collections import Counter
from xml.etree import ElementTree as ET

import pytest

from bnfold import report
from bnfold.checking.result import CheckResult, Verdict
from bnfold.errors import BnfoldError
from bnfold.printable import visible
from bnfold.report import check_github
from bnfold.report.check_cases import cases
from bnfold.report.markdown_text import escaped, table
from bnfold.report.text import share
from tests.report import results
from tests.report.results import HOSTILE, RESULTS

EVERY = pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
ELEMENT = {Verdict.DIFFERENT: "failure", Verdict.UNVERIFIED: "error", Verdict.SKIPPED: "skipped"}


def junit(result):
    return ET.fromstring(report.render(result, "junit"))


@EVERY
def test_junit_is_as_bad_as_the_verdict(make):
    result = make()
    root = junit(result)
    seen = Counter(child.tag for case in root.iter("testcase") for child in case)
    assert root.get("tests") == str(len(list(root.iter("testcase")))) != "0"
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(root.get(name)) == seen[tag] == sum(int(suite.get(name)) for suite in root.iter("testsuite"))
    verdict = ELEMENT.get(result.verdict)
    if verdict is None:
        assert not set(seen) - {"skipped"}
        assert seen["skipped"] < int(root.get("tests"))
    else:
        assert seen[verdict]


def test_junit_has_a_case_for_each_output_of_each_triple():
    found = [(case.get("classname"), case.get("name")) for case in junit(results.verified()).iter("testcase")]
    assert found == [("a.onnx on cpu", "y"), ("a.onnx on cuda:use_tf32=0", "y"), ("audit", "conv1 weight")]


def test_junit_of_a_run_without_outputs_is_an_error_and_of_a_skip_a_skip():
    error = junit(results.unverified()).find(".//testcase[@classname='a.onnx on cuda']/error")
    assert error.get("message") == "libcudnn.so.9 is missing"
    skip = junit(results.skipped()).find(".//testcase[@classname='a.onnx on cuda']/skipped")
    assert skip.get("message") == "CUDA is missing"


def test_junit_tells_where_they_part():
    failure = junit(results.different()).find(".//testcase[@classname='b.onnx on cpu'][@name='y']/failure")
    assert failure.get("message") == "the reason of y"
    assert "at conv3 (Conv), channel 5, index (0, 5, 1) of random/8: off by 1, allowed 0.125" in failure.text


def test_a_run_that_fell_back_fails_though_every_output_is_right():
    assert [case.verdict for case in cases(results.not_placed())] == [
        Verdict.VERIFIED, Verdict.UNVERIFIED, Verdict.VERIFIED,
    ]  # fmt: skip


@EVERY
def test_sarif_has_the_required_fields(make):
    result = make()
    log = json.loads(report.render(result, "sarif"), parse_constant=pytest.fail)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [f"BNF{i:03}" for i in range(1, 6)]
    assert all({"id", "name", "shortDescription"} <= set(rule) for rule in rules)
    assert run["tool"]["driver"]["name"] == "bnfold"
    assert run["invocations"][0]["exitCode"] == result.exit_status
    for found in run["results"]:
        assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
        assert found["level"] in ("error", "warning", "note")
        assert found["message"]["text"]
        uri = found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[\w.~%/-]+", uri, re.ASCII)
        assert found["locations"][0]["physicalLocation"]["region"]["startLine"] == 1
    prints = [found["partialFingerprints"]["bnfold/v1"] for found in run["results"]]
    assert len(set(prints)) == len(prints)
    errors = any(found["level"] == "error" for found in run["results"])
    assert errors == (result.verdict in (Verdict.DIFFERENT, Verdict.UNVERIFIED))


def test_sarif_rule_ids_are_stable():
    (run,) = json.loads(report.render(results.different(), "sarif"))["runs"]
    found = [(item["ruleId"], item["level"]) for item in run["results"]]
    assert found == [("BNF001", "error"), ("BNF003", "error"), ("BNF005", "warning")]
    assert run["results"][0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "conv3"
    again = json.loads(report.render(results.different(), "sarif"))
    assert again["runs"] == [run]


def test_markdown_shows_the_matrix_and_the_place():
    text = report.render(results.different(), "markdown")
    assert text.startswith("## ❌ bnfold check: different\n")
    assert "| candidate | cpu |\n|---|---|\n| a.onnx | ✅ 1.1 of 3 |\n| b.onnx | ❌ 40 of 3 |\n" in text
    assert "**b.onnx**: first beyond the budget at conv3 (Conv), channel 5" in text
    assert "| conv3 | weight | 5 | nan | 1 |" in text


@EVERY
def test_markdown_tables_are_well_formed(make):
    lines = report.render(make(), "markdown").splitlines()
    widths = []
    for line in lines:
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
            assert widths[-1] == widths[0]
        else:
            widths.clear()


def test_markdown_fits_a_step_summary():
    many = [results.output(f"y{i}", Verdict.DIFFERENT) for i in range(20_000)]
    result = results.check(results.run(outputs=tuple(many)))
    text = report.render(result, "markdown")
    assert len(text.encode()) < 1 << 20
    assert "and 19,950 more" in text


def test_markdown_leaves_names_as_text():
    text = report.render(results.hostile(), "markdown")
    assert "<script" not in text
    assert "@all" not in text
    assert "https://" not in text
    assert "\x1b" not in text
    assert escaped("a|b [x](y) `c` _d_ https://e f: g") == r"a\|b \[x\](y) \`c\` \_d\_ https\://e f: g"


def test_a_long_table_is_cut_and_counted():
    assert list(table(("a",), [(str(i),) for i in range(5)], most=2))[-2:] == ["and 3 more", ""]
    assert list(table(("a",), [])) == []


def test_annotations():
    lines = report.render(results.different(), "github").splitlines()
    assert lines[0].startswith("::error title=bnfold output-differs%3A b.onnx on cpu%3A y::the reason of y%0Afirst ")
    assert lines[1].startswith("::error title=bnfold wrong-constant%3A audit%3A conv3 weight::2 channels beyond")
    assert lines[2:] == ["::warning title=bnfold weak-evidence::coverage is low"]
    assert report.render(results.verified(), "github") == ""


def test_annotations_beyond_ten_are_counted():
    many = tuple(results.output(f"y{i}", Verdict.DIFFERENT) for i in range(12))
    lines = report.render(results.check(results.run(outputs=many)), "github").splitlines()
    assert len(lines) == 10
    assert lines[-1] == "::error title=bnfold::and 3 more, see the report"


def test_no_name_starts_a_workflow_command():
    commands = report.render(results.hostile(), "github").splitlines()
    assert all(re.match(r"::(error|warning|notice) title=[^:,]*::", line) for line in commands)
    assert len(commands) == 6


@pytest.mark.parametrize(("value", "wanted"), [("true", True), ("", False), (None, False)])
def test_annotations_are_wanted_in_a_workflow_only(monkeypatch, value, wanted):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    if value is not None:
        monkeypatch.setenv("GITHUB_ACTIONS", value)
    assert check_github.wanted() is wanted


def test_visible():
    assert visible("a\nb\tc\x1b[0m\u202e\ud800\x00é漢") == "a b\\x09c\\x1b[0m\\u202e\\ud800\\x00é漢"


@pytest.mark.parametrize(("value", "text"), [(1.0, "100 %"), (0.99999, "99.9 %"), (0.5, "50 %"), (None, "-")])
def test_a_share_is_never_rounded_up(value, text):
    assert share(value) == text


@EVERY
@pytest.mark.parametrize("kind", report.CHECK_KINDS)
def test_every_kind_is_written_whole(make, kind, tmp_path):
    path = tmp_path / "report.out"
    report.write(make(), kind, path)
    assert path.read_text(encoding="utf-8") == report.render(make(), kind)
    assert [item.name for item in tmp_path.iterdir()] == ["report.out"]


def test_json_is_the_result_itself():
    assert CheckResult.from_json(report.render(results.different(), "json")).reasons == results.different().reasons


def test_a_report_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text("old")
    with pytest.raises(AttributeError):
        report.write(None, "junit", path)
    assert path.read_text() == "old"


def test_the_command_line_form(tmp_path):
    wanted = report.parse(f"junit={tmp_path}/a.xml, html={tmp_path}/b=c.html")
    assert wanted == {"junit": tmp_path / "a.xml", "html": tmp_path / "b=c.html"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("juint=a.xml", "did you mean junit?"),
        ("pdf=a.pdf", "there are json, junit"),
        ("junit", "wanted junit=FILE"),
        ("junit=", "wanted junit=FILE"),
        ("junit=nowhere/a.xml", "can't be written"),
        ("html=/tmp/a,html=/tmp/b", "html is given twice"),
        ("html=/tmp/a,json=/tmp/a", "/tmp/a is given twice"),
    ],
)
def test_the_command_line_form_refuses(text, message):
    with pytest.raises(BnfoldError, match=re.escape(message)):
        report.parse(text)


def test_hostile_text_is_hostile():
    assert all(piece in HOSTILE for piece in ("<script", "|", "`", "\n", "\x1b", "\u202e", "\ud800"))
