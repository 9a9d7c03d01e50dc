"""`bnfold check`: are two models the same function?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bnfold.checking.result import CheckResult, Verdict
from bnfold.commands.options import FILE, architecture, json_option, trust
from bnfold.errors import BnfoldError
from bnfold.printable import visible

if TYPE_CHECKING:
    from bnfold.checking.frames import Correspondence

_FIGURES = "rms, channel, peak, floor, ceiling"


@click.command()
@click.argument("reference", required=False, type=FILE)
@click.argument("candidates", nargs=-1, metavar="[CANDIDATE]...", type=FILE)
@click.option(
    "--providers", default="cpu", show_default=True,
    help="Execution providers with options, for instance cpu,cuda:use_tf32=0,device_id=1. level=disable|basic|extended|"
    "layout|all and threads=N are options too.",
)  # fmt: skip
@click.option("--inputs", type=FILE, help="Samples of your own: .npz, .npy, or a folder of them.")
@click.option("--input", "shapes", multiple=True, metavar="[NAME=]SHAPE[:DTYPE]",
              help="What a module takes, as 1x3x224x224, where its file doesn't tell; again for more.")  # fmt: skip
@click.option(
    "--search", type=click.IntRange(min=0), default=0, metavar="N", help="Steps of search for a telling input."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
@click.option("--report", default="", metavar="KIND=FILE,...", help="json, junit, sarif, markdown, github, html.")
@click.option("--budget", metavar="show|FIGURE=X,...", help=f"Show the budgets, or override figures ({_FIGURES}).")
@click.option("--allow-missing", is_flag=True, help="A provider that is not there is a visible skip.")
@click.option("--allow-fallback", is_flag=True, help="Nodes may run on the CPU instead.")
@click.option("--allow-folded-reference", is_flag=True, help="Take a reference whose BatchNorm its exporter folded.")
@click.option("--by-position", is_flag=True, help="Pair inputs and outputs in their order, whatever they are called.")
@click.option("--replay", type=FILE, help="Run only the input of a replay file.")
@click.option("--save", type=FILE, default="bnfold-replay.npz", show_default=True,
              help="Where the smallest input that shows a difference is written; empty for nowhere.")  # fmt: skip
@click.option("--plan", type=FILE, help="The fold's plan (bnfold fold --save-plan), for naming"
              " where two ONNX models part.")  # fmt: skip
@click.option("--reduce", "reduce_to", type=FILE, metavar="DIR",
              help="Cut two differing ONNX models down to the smallest that differ.")  # fmt: skip
@architecture
@trust
def command(reference: Path | None, candidates: tuple[Path, ...], **options: Any) -> int:
    """Are REFERENCE and each CANDIDATE (.pt, .pt2, .onnx) the same function?

    Exit status: 0 verified, 1 different, 2 usage or internal error, 3 could not verify, 4 refused as unsafe.
    """
    if options["budget"] == "show":
        return _show_budget()
    options = _with_settings(options)
    replay = _replay(options["replay"])
    if replay is not None:
        reference = reference or _path(replay.arguments.get("reference"))
        listed = replay.arguments.get("candidates")
        candidates = candidates or tuple(filter(None, map(_path, listed if isinstance(listed, list) else [])))
    if reference is None or not candidates:
        raise click.UsageError("give a REFERENCE and at least one CANDIDATE.")
    return _check(reference, candidates, options, replay)


def _check(reference: Path, candidates: tuple[Path, ...], options: dict[str, Any], replay: Any) -> int:
    from bnfold import report
    from bnfold.atomic import check_writable
    from bnfold.checking import check

    reports = report.parse(options["report"])  # before the work, so that a misspelt kind costs none
    if options["shapes"] and _is_typed("inputs"):
        raise BnfoldError("--inputs gives samples and --input draws one; give one of the two")
    save = None if replay or not str(options["save"]).strip(".") else options["save"]
    read = (reference, *candidates, options["inputs"], options["replay"], options["plan"])
    for path in reports.values():
        check_writable(path, *read)
    if save is not None and _is_typed("save"):
        check_writable(save, *read, *reports.values())
    result = check(
        reference,
        list(candidates),
        dict(replay.arrays) if replay else _drawn(options["shapes"]) or options["inputs"],
        options["providers"],
        seed=options["seed"],
        search=options["search"],
        allow_missing=options["allow_missing"],
        allow_fallback=options["allow_fallback"],
        allow_folded_reference=options["allow_folded_reference"],
        by_position=options["by_position"],
        budget=_figures(options["budget"]) if isinstance(options["budget"], str) else options["budget"],
        correspondence=_correspondence(options["plan"], reference, candidates),
        only_given=replay is not None,
        save=save,
        arch=options["arch"],
        arch_kwargs=_arguments(options["arch_arguments"]),
        trust=options["trust"],
    )
    for kind, path in reports.items():
        report.write(result, kind, path)
    _print(result, options["as_json"])
    if options["reduce_to"] is not None:
        _reduce(reference, candidates, result, options)
    return result.exit_status


def _print(result: CheckResult, as_json: bool) -> None:
    from bnfold.checking.text import render
    from bnfold.report import check_github

    if as_json:
        click.echo(result.to_json())
        return
    click.echo(render(result))
    if check_github.wanted():
        click.echo(check_github.render(result), nl=False)


def _with_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Fill in what the project's pyproject.toml sets and the command line does not."""
    from bnfold import settings

    found = settings.load()
    chosen = {**found.for_check(), **({"report": found.report} if found.report else {})}
    return {**options, **{name: x for name, x in chosen.items() if not _is_typed(name)}}


def _is_typed(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is not ParameterSource.DEFAULT


def _reduce(reference: Path, candidates: tuple[Path, ...], result: CheckResult, options: dict[str, Any]) -> None:
    """Cut each candidate that differs, in a folder of its own where there are several. The verdict stands anyhow."""
    from bnfold.checking.reduce import reduce_files

    different = {run.candidate for run in result.runs if run.verdict is Verdict.DIFFERENT}
    different |= {row.candidate for row in result.audit if not row.passed}
    for candidate, label in zip(candidates, result.candidates, strict=True):
        if label not in different:
            continue
        folder = options["reduce_to"] / label if len(candidates) > 1 else options["reduce_to"]
        try:
            found = reduce_files(reference, candidate, folder, by_position=options["by_position"])
        except BnfoldError as error:
            click.echo(f"bnfold: {visible(label)} was not reduced: {error}", err=True)
        else:
            click.echo(visible(found.sentence), err=options["as_json"])


def _correspondence(plan: Path | None, reference: Path, candidates: tuple[Path, ...]) -> "Correspondence | None":
    """Map the reference's values to the candidate's by the plan. `BnfoldError` where it is another model's."""
    if plan is None:
        return None
    if len(candidates) != 1:
        raise BnfoldError(f"{plan}: one plan maps one candidate; got {len(candidates)}")
    from bnfold.adapters.onnx_file import raised_for_onnx, read
    from bnfold.checking.onnx_files import load_onnx
    from bnfold.checking.plans import correspondence_of
    from bnfold.folding_files import read_plan
    from bnfold.formats import Kind, kind_of

    for path in (reference, *candidates):
        if kind_of(path) is not Kind.ONNX:
            raise BnfoldError(f"{path}: --plan maps the values of two ONNX models, and this is none; leave it out")
    graph = raised_for_onnx(read(reference))
    nodes = load_onnx(candidates[0]).graph.node
    names = {name for node in nodes for name in node.output}
    return correspondence_of(read_plan(plan, graph), graph, names)


def _show_budget() -> int:
    from bnfold.checking.text import render_budget
    from bnfold.checking.tolerance import TABLE

    click.echo(render_budget(TABLE.values()))
    return 0


def _figures(text: str | None) -> dict[str, float] | None:
    if not text:
        return None
    figures = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            figures[name.strip()] = float(value)
        except ValueError:
            raise BnfoldError(f"--budget {part!r}: wanted show, or one of {_FIGURES} = a number") from None
    return figures


def _drawn(shapes: tuple[str, ...]) -> Any:
    """Draw one sample of these shapes: by name, or in order; None where there are none."""
    if not shapes:
        return None
    from bnfold.adapters.torch_inputs import parse

    named = [parse(text) for text in shapes]
    names = {name for name, _ in named}
    if None in names and len(names) > 1:
        raise BnfoldError("--input: name every input (NAME=SHAPE) or none")
    return tuple(tensor for _, tensor in named) if None in names else dict(named)


def _arguments(pairs: tuple[str, ...]) -> dict[str, Any] | None:
    if not pairs:
        return None
    from bnfold.adapters.torch_factory import parse_arguments

    return parse_arguments(pairs)


def _replay(path: Path | None) -> Any:
    if path is None:
        return None
    from bnfold.checking.replay import load_replay

    return load_replay(path)


def _path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, str) and value else None
