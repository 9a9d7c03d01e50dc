"""What `bnfold explain` says about each reason: the one place where the pages stand."""

from collections.abc import Mapping

from bnfold.reasons.decisions import DECISIONS
from bnfold.reasons.holding import HOLDING
from bnfold.reasons.numbers import NUMBERS
from bnfold.reasons.page import Page
from bnfold.reasons.rewriting import REWRITING
from bnfold.why import Why

__all__ = ["PAGES", "Page", "page"]

PAGES: Mapping[Why, Page] = HOLDING | REWRITING | NUMBERS | DECISIONS


def page(why: Why) -> str:
    """Give the page as text: the code, the sentence, why it is so, an example, and the way out."""
    found = PAGES[why]
    example = "\n".join(f"    {line}" if line else "" for line in found.example.strip("\n").split("\n"))
    title = f"{why.code}: NODE {why.sentence}"
    return f"{title}\n\n{found.text}\n\nExample\n\n{example}\n\nWhat to do\n\n    {why.advice}\n"
