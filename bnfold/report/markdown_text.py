"""Pieces of Markdown in which names of others stay text."""

import re
from collections.abc import Iterable, Sequence

from bnfold.printable import visible

_MARKS = re.compile(r"[\\`*_\[\]|~#]|:(?=\S)")  # a colon makes links without brackets (https:, mailto:)
_ENTITIES = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;"})  # @ would call a person


def escaped(text: str) -> str:
    """Give text that Markdown shows as it is, on one line and inside a table."""
    return _MARKS.sub(r"\\\g<0>", visible(text)).translate(_ENTITIES).replace("www.", "www\\.")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], most: int = 50) -> Iterable[str]:
    """Give the lines of a table of ready Markdown; what is beyond `most` rows is counted."""
    if not rows:
        return
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(row) + " |" for row in rows[:most])
    yield ""
    if len(rows) > most:
        yield f"and {len(rows) - most:,} more"
        yield ""


def folded(title: str, lines: Iterable[str]) -> Iterable[str]:
    """Put lines behind a triangle."""
    yield f"<details><summary>{title}</summary>"
    yield ""
    yield from lines
    yield "</details>"
    yield ""
