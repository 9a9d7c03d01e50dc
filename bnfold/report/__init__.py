"""Reports, each made from one result object alone: `write(result, "junit", "a.xml")`."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.atomic import check_writable, is_special, replacing
from bnfold.errors import BnfoldError

if TYPE_CHECKING:
    from bnfold.checking.result import CheckResult

CHECK_KINDS: Mapping[str, str] = {
    "json": "every figure, versioned",
    "junit": "test cases for CI",
    "sarif": "findings for code scanning",
    "markdown": "a CI step's summary",
    "github": "annotations of a GitHub workflow",
    "html": "one page with pictures",
}


def parse(text: str) -> dict[str, Path]:
    """Read `junit=a.xml,html=b.html`. `BnfoldError` for an unknown kind, or a place that can't be written to."""
    wanted: dict[str, Path] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kind, equals, path = part.partition("=")
        known(kind)
        if not equals or not path:
            raise BnfoldError(f"--report {part!r}: wanted {kind}=FILE")
        if kind in wanted or (Path(path) in wanted.values() and not is_special(path)):
            raise BnfoldError(f"--report {part!r}: {kind if kind in wanted else path} is given twice")
        check_writable(path)
        wanted[kind] = Path(path)
    return wanted


def known(kind: str) -> str:
    """Give `kind` back. `BnfoldError`, with the nearest name, where there is no such report."""
    if kind in CHECK_KINDS:
        return kind
    import difflib

    near = difflib.get_close_matches(kind, CHECK_KINDS, n=1)
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(CHECK_KINDS)}"
    raise BnfoldError(f"no report of kind {kind!r}; {advice}")


def render(result: "CheckResult", kind: str) -> str:
    """Give a report as text."""
    if known(kind) == "json":
        return result.to_json() + "\n"
    module: Any = importlib.import_module(f"bnfold.report.check_{kind}")
    text: str = module.render(result)
    return text


def write(result: "CheckResult", kind: str, path: str | os.PathLike[str]) -> None:
    """Write a report in UTF-8; the file appears whole or not at all."""
    text = render(result, kind)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
