"""`bnfold explain`: what a reason code means."""

import difflib

import click

from bnfold.commands.options import json_option
from bnfold.errors import BnfoldError
from bnfold.report.document import document
from bnfold.why import Why


@click.command()
@click.argument("code", required=False)
@json_option
def command(code: str | None, as_json: bool) -> None:
    """Explain CODE, a reason for which a BatchNorm stays; without CODE, list them all."""
    if code is None:
        click.echo(_json(list(Why)) if as_json else _list())
        return
    why = {why.code: why for why in Why}.get(code.lower().replace("_", "-"))
    if why is None:
        near = difflib.get_close_matches(code.lower(), [why.code for why in Why])
        hint = f"Did you mean {' or '.join(near)}?" if near else "`bnfold explain` lists them all."
        raise BnfoldError(f"{code!r} is no reason code. {hint}")
    from bnfold.reasons import page

    click.echo(_json([why]) if as_json else page(why), nl=as_json)


def _list() -> str:
    width = max(len(why.code) for why in Why)
    return "\n".join(f"{why.code:{width}}  {why.sentence}" for why in Why)


def _json(whys: "list[Why]") -> str:
    from bnfold.reasons import PAGES

    found = [
        {
            "code": why.code,
            "sentence": why.sentence,
            "advice": why.advice,
            "text": PAGES[why].text,
            "example": PAGES[why].example.strip("\n"),
        }
        for why in whys
    ]
    return document("explain", reasons=found)
