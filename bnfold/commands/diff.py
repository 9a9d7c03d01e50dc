"""`bnfold diff`: what is not the same in two ONNX files."""

from pathlib import Path

import click

from bnfold.commands.options import FILE, json_option
from bnfold.errors import BnfoldError

_DIFFERENT = 1


@click.command()
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@json_option
def command(first: Path, second: Path, as_json: bool) -> int:
    """Show what differs between two ONNX files: nodes, tensors, inputs, outputs, value_info, metadata.

    After a fold, that is what folding changed. It compares what is written, not what is computed; for that, use check.

    Exit status: 0 nothing differs, 1 something does, 2 one of them is no model, 4 refused as unsafe.
    """
    from bnfold.adapters.onnx_diff import diff
    from bnfold.formats import Kind, kind_of

    for path in (first, second):
        if (kind := kind_of(path)) is not Kind.ONNX:
            raise BnfoldError(f"{path}: is {kind.value}; diff compares ONNX files, check models of any kind")
    differences = diff(first, second)
    if as_json:
        from dataclasses import asdict

        from bnfold.report.document import document

        click.echo(document("diff", differences=[asdict(item) for item in differences]))
    else:
        from bnfold.printable import visible

        for item in differences:
            click.echo(visible(str(item)))
        click.echo(_total([item.sign for item in differences]))
    return _DIFFERENT if differences else 0


def _total(signs: list[str]) -> str:
    if not signs:
        return "no difference"
    return f"{signs.count('-')} removed, {signs.count('+')} added, {signs.count('~')} changed"
