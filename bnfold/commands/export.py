"""`bnfold export`: PyTorch to a folded, verified ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.commands.fold import print_report
from bnfold.commands.options import FILE, architecture, inputs, json_option, max_bytes, selection, trust, typed_patterns
from bnfold.errors import BnfoldError
from bnfold.printable import visible

if TYPE_CHECKING:
    from bnfold.result import ExportResult


@click.command()
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, help="Where the result goes.  [default: MODEL.onnx]")
@click.option("--no-fold", is_flag=True, help="Keep every BatchNormalization as a node.")
@selection
@click.option("--plan", type=FILE, help="Carry out this plan instead of finding one.")
@click.option("--opset", type=click.IntRange(min=7), help="ONNX operator set.  [default: the exporter's]")
@click.option("--dynamic", metavar="AXIS=NAME,...",
              help="Axes whose length may change, as 0=batch,2=h; `none` for none.  [default: 0=batch]")  # fmt: skip
@click.option("--input-names", metavar="NAME,...", help="Names of the ONNX inputs, in order.")
@click.option("--output-names", metavar="NAME,...", help="Names of the ONNX outputs, in order.")
@click.option("--simplify", is_flag=True, help="Run onnxsim on the result.")
@click.option("--half", is_flag=True, help="Convert to float16, inputs and outputs too.")
@click.option("--no-verify", is_flag=True, help="Don't run the file against the PyTorch model.")
@click.option("--providers", default="cpu", show_default=True, help="Where the file is run for that, as in `check`.")
@inputs
@click.option("--inputs", "samples", type=FILE, help="Example inputs from an .npz file, by name.")
@architecture
@trust
@max_bytes
@json_option
def command(model: Path, output: Path | None, as_json: bool, **options: Any) -> int:
    """Fold MODEL (.pt, .pth, .pt2, .safetensors), write it as ONNX, and hold the file to the original.

    Exit status: 0 done and verified, 1 the file is not the same function, 2 usage or internal error, 3 could not
    verify, 4 refused as unsafe; nothing is written unless it is 0.
    """
    from bnfold.atomic import check_writable
    from bnfold.formats import Kind, kind_of

    if kind_of(model) is Kind.ONNX:
        raise BnfoldError(f"{model}: is ONNX already; fold it with bnfold fold")
    target = model.with_suffix(".onnx") if output is None else output
    if target.exists() and target.samefile(model):
        raise BnfoldError(f"{target}: is the input; give another name with -o")
    check_writable(target, options["plan"], options["samples"])
    result = _export(model, target, options)
    _show(result, as_json, model=str(model), level=options["level"])
    return 0


def _export(model: Path, target: Path, options: dict[str, Any]) -> "ExportResult":
    from bnfold.adapters.torch_factory import parse_arguments
    from bnfold.adapters.torch_load import load_module
    from bnfold.adapters.torch_onnx import export
    from bnfold.entry import fold
    from bnfold.folding_files import require_matches

    loaded = load_module(
        model,
        arch=options["arch"],
        arch_kwargs=parse_arguments(options["arch_arguments"]),
        inputs=options["samples"] or options["inputs"] or None,
        trust=options["trust"],
        max_bytes=options["max_bytes"],
    )
    if not loaded.example_inputs:
        raise BnfoldError(f"{model}: doesn't tell what the model takes; give --input, for example 1x3x224x224")
    opened = loaded.program or loaded.module
    if typed_patterns() and not options["no_fold"]:
        require_matches(fold(opened, loaded.example_inputs, dry_run=True).plan, typed_patterns(), model)
    return export(
        opened,
        loaded.example_inputs,
        target,
        fold=not options["no_fold"],
        level=options["level"],
        only=options["only"],
        skip=options["skip"],
        plan_file=options["plan"],
        opset=options["opset"],
        dynamic=axes(options["dynamic"]),
        input_names=_names(options["input_names"]),
        output_names=_names(options["output_names"]),
        merge=options["merge"],
        simplify=options["simplify"],
        half=options["half"],
        verify=not options["no_verify"],
        providers=options["providers"],
        properties={"bnfold.source_sha256": _sha256(model)},
    )


def axes(text: str | None) -> dict[int, str] | None:
    """Read --dynamic: `0=batch,2=h`, or `none`."""
    if text is None:
        return None
    if text == "none":
        return {}
    found = {}
    for part in text.split(","):
        axis, equals, name = part.strip().partition("=")
        if not (equals and axis.isdigit() and name.isidentifier()):
            raise BnfoldError(f"--dynamic {text}: wanted AXIS=NAME,..., for example 0=batch,2=h,3=w")
        found[int(axis)] = name
    return found


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _show(result: "ExportResult", as_json: bool, **asked: str) -> None:
    if as_json:
        click.echo(_json(result, **asked))
        return
    if result.fold is not None:
        print_report(result.fold)
    for note in result.notes:
        click.echo(f"note: {visible(note)}")
    told = "not verified" if result.check is None else f"{result.check.verdict} against the PyTorch model"
    click.echo(f"wrote {visible(str(result.path))} ({told})")


def _json(result: "ExportResult", **asked: str) -> str:
    from bnfold.report.document import document
    from bnfold.report.fold_json import fold_json

    done, output = result.fold, str(result.path)
    fold = done and fold_json(done.graph, done.plan, notes=done.notes, output=output, dry_run=False, **asked)
    check = result.check and result.check.to_dict()
    return document("export", output=output, fold=fold, check=check, notes=list(result.notes))
