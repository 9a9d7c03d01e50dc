"""Every reason has a page, and `bnfold explain` finds it."""

import json

import pytest
from click.testing import CliRunner

from bnfold.commands.explain import command
from bnfold.errors import BnfoldError
from bnfold.reasons import PAGES, page
from bnfold.why import Why


def explain(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_every_reason_has_a_page_and_no_page_is_left_over() -> None:
    assert set(PAGES) == set(Why)


@pytest.mark.parametrize("why", list(Why), ids=lambda why: why.code)
def test_a_page_says_why_with_an_example_and_a_way_out(why: Why) -> None:
    text = page(why)
    assert text.startswith(f"{why.code}: NODE {why.sentence}\n")
    assert why.advice in text
    assert all(len(line) <= 124 for line in text.split("\n"))
    assert PAGES[why].example.strip()
    assert len(PAGES[why].text) > 40


def test_codes_are_stable_names() -> None:
    assert len({why.code for why in Why}) == len(Why)
    assert {"kink", "gamma-zero", "no-bias", "padding"} <= {why.code for why in Why}


def test_explain() -> None:
    assert explain("kink") == page(Why.KINK)
    assert explain("GAMMA_ZERO") == page(Why.GAMMA_ZERO)
    assert [line.split()[0] for line in explain().strip().split("\n")] == [why.code for why in Why]
    assert json.loads(explain("kink", "--json"))["reasons"][0]["sentence"] == Why.KINK.sentence
    assert len(json.loads(explain("--json"))["reasons"]) == len(Why)


def test_a_misspelt_code_gets_the_nearest() -> None:
    with pytest.raises(BnfoldError, match="Did you mean padding"):
        explain("paddng")
    with pytest.raises(BnfoldError, match="lists them all"):
        explain("qqqqqq")
