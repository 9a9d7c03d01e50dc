"""`bnfold fold`: absorb every BatchNorm that can be absorbed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.commands.lean import with_collector, with_protos_alone, without_blas_threads, without_idle_modules
from bnfold.commands.options import FILE, json_option, opening, selection, typed_patterns
from bnfold.printable import visible

if TYPE_CHECKING:
    from bnfold.folding_files import Request
    from bnfold.result import FoldResult


def requested(model: Path, options: dict[str, Any], **more: Any) -> "Request":
    """Make the request of a command's options."""
    from bnfold.folding_files import Request

    arguments = {}
    if options["arch_arguments"]:
        from bnfold.adapters.torch_factory import parse_arguments

        arguments = parse_arguments(options["arch_arguments"])
    names = ("level", "only", "skip", "merge", "arch", "inputs", "trust", "max_bytes", "bake", "freeze_inputs")
    chosen = {name: options[name] for name in names}
    return Request(model, arch_arguments=arguments, must_match=typed_patterns(), **chosen, **more)


@click.command()
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, help="Where the result goes.  [default: MODEL.folded.pt or .onnx]")
@click.option("--to", type=click.Choice(["checkpoint", "state_dict", "safetensors", "module", "pt2", "onnx"]),
              help="The kind of a PyTorch model's result.  [default: by -o's extension, else as MODEL]")  # fmt: skip
@click.option("--in-place", is_flag=True, help="Write the result over MODEL.")
@click.option("--dry-run", is_flag=True, help="Write no model.")
@selection
@click.option("--plan", type=FILE, help="Carry out this plan instead of finding one.")
@click.option("--save-plan", type=FILE, help="Write the plan as JSON, for --plan.")
@click.option(
    "--external-data", type=click.Choice(["auto", "never", "always"]), default="auto", show_default=True,
    help="Where the result of an ONNX model keeps its tensors.",
)  # fmt: skip
@click.option("--verify", is_flag=True, help="Run an ONNX result against the original (PyTorch results always are).")
@opening
@json_option
def command(model: Path, output: Path | None, as_json: bool, **options: Any) -> int:
    """Fold every BatchNorm of MODEL (.pt, .pt2, .safetensors, .onnx) that can be folded; say why for the rest.

    Exit status: 0 done, 1 the result is not the same function, 2 usage or internal error, 3 could not verify,
    4 refused as unsafe; nothing is written unless it is 0.
    """
    without_blas_threads()
    without_idle_modules()
    from bnfold.folding_files import fold_file
    from bnfold.formats import Kind, kind_of

    if options["plan"] is not None and (options["only"] or options["skip"] or options["level"] != "default"):
        raise click.UsageError("--plan says what is folded; leave out --only, --skip and --level.")
    request = requested(
        model,
        options,
        target=output,
        to=options["to"],
        plan=options["plan"],
        in_place=options["in_place"],
        dry_run=options["dry_run"],
        external_data=options["external_data"],
        verify=options["verify"],
    )
    _check_outputs(request, options["save_plan"])
    if kind_of(model) is Kind.ONNX:
        with_protos_alone()
    if kind_of(model) is not Kind.ONNX or request.verify or request.plan is not None:
        with_collector()
    result = fold_file(request)
    if options["save_plan"] is not None:
        _save_plan(options["save_plan"], result)
    written = None if request.dry_run else str(result.model)
    show(result, request, as_json, output=written, dry_run=request.dry_run)
    return 0


def _check_outputs(request: "Request", plan: Path | None) -> None:
    """Refuse what can't be written, or would be written over what is read, before any work is done."""
    from bnfold.atomic import check_writable

    if plan is not None:
        check_writable(plan, request.source, request.target, request.plan)
    if request.target is not None and not request.dry_run:
        check_writable(request.target, request.plan)


def _save_plan(path: Path, result: "FoldResult") -> None:
    from bnfold.atomic import check_writable, replacing
    from bnfold.plan_json import dumps

    check_writable(path, result.model)  # which may have the default name
    with replacing(path) as temporary:
        temporary.write_text(dumps(result.plan, result.graph), encoding="utf-8")


def show(result: "FoldResult", request: "Request", as_json: bool, **more: Any) -> None:
    """Print a fold: JSON, a table in colour on a terminal, or plain text."""
    if as_json:
        import json

        from bnfold.report.fold_json import fold_json

        data = fold_json(
            result.graph, result.plan, model=str(request.source), notes=result.notes, level=request.level, **more
        )
        click.echo(json.dumps(data, indent=1, allow_nan=False))
        return
    print_report(result)
    for note in result.notes:
        click.echo(f"note: {visible(note)}")
    if more.get("output"):
        click.echo(f"wrote {visible(more['output'])}")


def print_report(result: "FoldResult") -> None:
    """Print the table of affines and the totals."""
    if sys.stdout.isatty():
        from rich.console import Console

        from bnfold.report.fold_text import show as show_rich

        show_rich(result.graph, result.plan, Console())
    else:
        from bnfold.report.fold_text import plain

        click.echo(plain(result.graph, result.plan))
    click.echo()
