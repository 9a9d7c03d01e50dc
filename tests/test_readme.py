"""What README.md shows is what is printed."""

import difflib
import re

import pytest

from bnfold import demo
from tests.readme import README, commands, updated, without_numbers


def test_the_readme_shows_the_demo() -> None:
    assert commands(README.read_text(encoding="utf-8"))[: len(demo.STEPS)] == list(demo.STEPS)


def test_the_readme_shows_what_is_printed() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("sklearn")
    shown = README.read_text(encoding="utf-8")
    pair = [without_numbers(text).split("\n") for text in (shown, updated(shown))]
    difference = list(difflib.unified_diff(*pair, "README.md", "printed", lineterm="", n=0))
    assert not difference, "\n".join([*difference, "run python -m tests.readme"])


def test_lenet_reaches_what_is_promised() -> None:
    found = re.search(r"accuracy ([\d.]+)%", README.read_text(encoding="utf-8"))
    assert found is not None
    assert float(found[1]) >= 97


def test_what_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


def test_numbers_are_left_out_and_words_are_not() -> None:
    assert without_numbers("took 3.5 s,   1,234 x  5.7e-06") == "took # s, # x #"
    assert without_numbers("folded 4") != without_numbers("stays 4")
