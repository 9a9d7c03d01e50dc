"""`bnfold inspect`: what would be folded, and what keeps the rest."""

from pathlib import Path
from typing import Any

import click

from bnfold.commands.fold import requested, show
from bnfold.commands.options import FILE, json_option, opening, selection


@click.command()
@click.argument("model", type=FILE)
@selection
@opening
@click.option("--graph", "as_graph", is_flag=True, help="Print the graph that folding sees, one line a node.")
@click.option("--svg", type=FILE, help="Draw the graph around what stays.")
@json_option
def command(model: Path, svg: Path | None, as_graph: bool, as_json: bool, **options: Any) -> int:
    """Show every affine of MODEL with what it would fold into, or what keeps it. Writes no model."""
    from bnfold.atomic import check_writable, replacing
    from bnfold.folding_files import fold_file

    if as_graph and as_json:
        raise click.UsageError("--graph prints text; leave out --json.")
    if svg is not None:
        check_writable(svg, model)
    request = requested(model, options, dry_run=True)
    result = fold_file(request)
    if svg is not None:
        from bnfold.report.fold_picture import picture

        with replacing(svg) as temporary:
            temporary.write_text(picture(result.graph, result.plan), encoding="utf-8")
    if as_graph:
        click.echo(str(result.graph))
        return 0
    show(result, request, as_json, output=None, dry_run=True)
    return 0
