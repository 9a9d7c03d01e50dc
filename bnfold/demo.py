"""`make demo`: train a network with BatchNorm on real digits, fold it, export it, check it, all of it in ./demo."""

import shlex
import sys
from pathlib import Path

import click

from bnfold.commands import INTERRUPTED, group
from bnfold.errors import BnfoldError

FOLDER = Path("demo")
MODEL = FOLDER / "lenet.pt"
STEPS = (
    "bnfold train lenet -o demo/lenet.pt",
    "bnfold fold demo/lenet.pt",
    "bnfold export demo/lenet.pt -o demo/lenet.onnx",
    "bnfold check demo/lenet.pt demo/lenet.folded.pt demo/lenet.onnx --report html=demo/report.html",
)
RESULTS = {
    "lenet.pt": "the trained network, with BatchNorm",
    "lenet.svg": "its curves",
    "lenet.folded.pt": "the same without: bnfold.load gives the module",
    "lenet.onnx": "the same as ONNX",
    "report.html": "how far each is from the float64 truth",
}


def main() -> int:
    """Run every step as a person would type it; give the first exit status that isn't 0."""
    FOLDER.mkdir(exist_ok=True)
    training, *others = STEPS
    for step in (*_left_of(training), *others):
        click.echo(f"$ {step}")
        status = run(step)
        if status:
            return status
        click.echo()
    for name, what in RESULTS.items():
        click.echo(f"{FOLDER / name}: {what}")
    return 0


def _left_of(training: str) -> tuple[str, ...]:
    """Give what is left to run of the training step: a network that is trained in part is never folded."""
    from bnfold.training.runs import is_finished

    if not MODEL.exists():
        return (training,)
    try:
        if not is_finished(MODEL):
            return (f"{training} --resume",)
    except BnfoldError as error:
        click.echo(f"whether {MODEL} was trained to the end is not known ({error}), so it is trained anew\n")
        return (training,)
    click.echo(f"$ {training}\n{MODEL} is there already; remove it to train anew\n")
    return ()


def run(step: str) -> int:
    """Run a command line in this process, which spares importing PyTorch again; give its exit status."""
    try:
        status = group.main(shlex.split(step)[1:], prog_name="bnfold", standalone_mode=False)
    except BnfoldError as error:
        click.echo(f"bnfold: {error}", err=True)
        return error.exit_status
    except (click.Abort, KeyboardInterrupt):
        click.echo("bnfold: interrupted", err=True)
        return INTERRUPTED
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
