"""`bnfold train`: train a network with BatchNorm."""

import difflib
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bnfold.commands import INTERRUPTED
from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES
from bnfold.printable import visible
from bnfold.training.settings import OPTIMISERS, SCHEDULES, Settings

if TYPE_CHECKING:
    from bnfold.training.progress import Progress
    from bnfold.training.runs import TrainResult

_DEFAULTS = {entry.name: entry.default for entry in fields(Settings)}
_FREE_ON_RESUME = ("data", "epochs", "device")  # the data may have moved: their content is compared


class Nearest(click.Choice[str]):
    """A choice that suggests the nearest name for a misspelt one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Give the name that was chosen."""
        if value not in self.choices and (near := difflib.get_close_matches(value, self.choices, n=1)):
            self.fail(f"{value!r} is not known. Did you mean {near[0]}?", param, ctx)
        return super().convert(value, param, ctx)


def _epilog() -> str:
    width = max(len(name) for name in ARCHITECTURES)
    lines = (f"  {name:{width}}  {architecture.summary}" for name, architecture in ARCHITECTURES.items())
    return "\b\nArchitectures:\n" + "\n".join(lines)


@click.command(epilog=_epilog())
@click.argument("architecture", metavar="ARCH", type=Nearest(list(ARCHITECTURES)))
@click.option("--data", default="digits", show_default=True, help="digits, idx:DIR, npz:FILE or folder:DIR.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="model.pt", show_default=True,
    help="The best checkpoint. Beside it: the last one (.last.pt), what --resume needs (.resume.pt), "
    "a log (.jsonl) and the curves (.svg).",
)  # fmt: skip
@click.option("--epochs", type=int, default=_DEFAULTS["epochs"], show_default=True)
@click.option("--batch-size", type=int, default=_DEFAULTS["batch_size"], show_default=True)
@click.option(
    "--optimiser", "--optimizer", type=Nearest(list(OPTIMISERS)), default=_DEFAULTS["optimiser"], show_default=True
)
@click.option("--lr", "learning_rate", type=float, default=0.0, help="Peak learning rate.  [default: the optimiser's]")
@click.option("--weight-decay", type=float, default=_DEFAULTS["weight_decay"], show_default=True)
@click.option("--schedule", type=Nearest(list(SCHEDULES)), default=_DEFAULTS["schedule"], show_default=True)
@click.option(
    "--bn-momentum", type=float, default=_DEFAULTS["bn_momentum"], show_default=True, help="Weight of the new batch."
)
@click.option("--bn-eps", type=float, default=_DEFAULTS["bn_eps"], show_default=True)
@click.option("--seed", type=int, default=_DEFAULTS["seed"], show_default=True, help="Same seed, same bits (CPU).")
@click.option("--device", default=_DEFAULTS["device"], show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=int, default=_DEFAULTS["threads"], show_default=True, help="CPU threads.")
@click.option("--resume", is_flag=True, help="Continue the run that wrote the output, with its settings.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (docs/json.md), and no progress bar.")
@click.pass_context
def command(ctx: click.Context, /, output: Path, resume: bool, quiet: bool, as_json: bool, **settings: Any) -> None:
    """Train ARCH, a network with BatchNorm, and write the checkpoint that the other commands read."""
    from bnfold.training.runs import TrainingInterrupted

    try:
        progress = _progress(quiet or as_json)
        result = _resume(ctx, output, progress) if resume else _train(output, progress, settings)
    except TrainingInterrupted as error:
        click.echo(f"bnfold: {visible(str(error))}", err=True)
        ctx.exit(INTERRUPTED)
    if as_json:
        click.echo(_json(result))
    elif not quiet:
        click.echo(_summary(result))


def _train(output: Path, progress: "Progress | None", settings: dict[str, Any]) -> "TrainResult":
    from bnfold.training.runs import train

    return train(settings.pop("architecture"), output=output, progress=progress, **settings)


def _resume(ctx: click.Context, output: Path, progress: "Progress | None") -> "TrainResult":
    """Continue a run; what was said on the command line may not contradict its settings, but for the free ones."""
    from bnfold.training import run_state
    from bnfold.training.outputs import Outputs
    from bnfold.training.runs import resume as resume_run

    outputs = Outputs.beside(output)
    earlier = Settings.from_dict(run_state.read(outputs.resume).get("settings")).to_dict()
    said = {
        name: value
        for name, value in ctx.params.items()
        if name in earlier and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for name, value in said.items():
        if name not in _FREE_ON_RESUME and value != earlier[name]:
            raise BnfoldError(
                f"{outputs.resume}: its run has {name.replace('_', ' ')} {earlier[name]!r}, not {value!r}; "
                "say the same, or train anew without --resume"
            )
    return resume_run(output, progress=progress, **{name: said.get(name) for name in _FREE_ON_RESUME})


def _progress(quiet: bool) -> "Progress | None":
    """Show a bar on a terminal; files and pipes get the summary alone."""
    from bnfold.training.progress import Bar

    return Bar() if sys.stdout.isatty() and not quiet else None


def _summary(result: "TrainResult") -> str:
    settings, best, outputs = result.settings, result.best, result.outputs
    parameters = sum(parameter.numel() for parameter in result.model.parameters())
    seconds = sum(epoch.seconds for epoch in result.history)
    lines = [
        f"{settings.architecture} on {settings.data}: {len(result.history)} epochs in {seconds:.1f} s, "
        f"{parameters:,} parameters",
        f"held out: {result.score_name} {best.test_score:.1%}, loss {best.test_loss:.4f} (best epoch: {best.epoch})",
    ]
    if outputs is not None:
        beside = ", ".join(path.name for path in (outputs.last, outputs.resume, outputs.log, outputs.curves))
        lines.append(f"wrote {outputs.best}, and beside it {beside}")
    return "\n".join(map(visible, lines))


def _json(result: "TrainResult") -> str:
    from bnfold.report.document import document

    task = ARCHITECTURES[result.settings.architecture].task
    files = {} if result.outputs is None else asdict(result.outputs)
    return document(
        "train",
        settings=result.settings.to_dict(),
        parameters=sum(parameter.numel() for parameter in result.model.parameters()),
        best=result.best.record(task),
        epochs=[epoch.record(task) for epoch in result.history],
        files={name: str(path) for name, path in files.items()},
    )
