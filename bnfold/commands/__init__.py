"""The command line. Each command is a module of this package, imported only when it runs, so that `--help` is quick."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from bnfold import __version__
from bnfold.commands.lean import end_at_once, leave_the_rest, with_collector, without_collector
from bnfold.errors import BnfoldError

COMMANDS = {
    "train": "Train a network with BatchNorm.",
    "fold": "Fold every BatchNorm that can be folded; say why for the rest.",
    "export": "Fold, export to ONNX and verify.",
    "check": "Are two models the same function?",
    "inspect": "Show what would be folded and what keeps the rest.",
    "explain": "Explain a reason code.",
    "diff": "Show what folding changed in an ONNX file.",
    "doctor": "Diagnose the installed runtimes and providers.",
    "lint": "Fail on models that still hold foldable BatchNorm.",
}
_SHORT = "fold"  # the command that says itself whether it runs long
INTERRUPTED = 130
TERMINATED = 143  # as a shell says of SIGTERM
NOBODY_READS = 141  # as a shell says of SIGPIPE
_COMPLETION = "_BNFOLD_COMPLETE"  # eval "$(_BNFOLD_COMPLETE=bash_source bnfold)"


class Terminated(BaseException):
    """The process is asked to end (SIGTERM): what it has begun to write is taken away first."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command runs, and suggests names for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module `bnfold.commands.NAME` and give its `command`."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"bnfold.commands.{cmd_name}")
        if cmd_name != _SHORT:
            with_collector()
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Add the nearest names to click's message for an unknown command."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS)
            if not near:
                raise
            advice = f"No such command {args[0]!r}. Did you mean {' or '.join(near)}?"
            raise click.UsageError(advice, ctx) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bnfold")
def group() -> None:
    """Fold BatchNorm into the layers around it, export to ONNX, and prove that nothing changed.

    Exit status: 0 done and verified, 1 a difference was found, 2 usage or internal error, 3 could not verify,
    4 refused as unsafe, 130 interrupted.
    """


def run(arguments: Sequence[str]) -> object:
    """Run one command and give its status; unlike click's own `main`, leave every exception to the caller."""
    if _COMPLETION in os.environ:
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, "bnfold", _COMPLETION, os.environ[_COMPLETION])
    try:
        with group.make_context("bnfold", list(arguments)) as ctx:
            return group.invoke(ctx)
    except click.exceptions.Exit as end:  # --help and --version
        return end.exit_code


def main() -> None:
    """Run the command line and end the process with its exit status."""
    without_collector()
    if sys.stdout is None:  # who started the process has closed it
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BnfoldError as error:
        click.echo(f"bnfold: {error}", err=True)
        sys.exit(error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("bnfold: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except Terminated:
        click.echo("bnfold: terminated", err=True)
        sys.exit(TERMINATED)
    except BrokenPipeError:
        _write_no_more()
        sys.exit(NOBODY_READS)
    except OSError as error:
        _end_by(error)
    except Exception:  # noqa: BLE001 - Python's own status for a traceback is 1, which says "different" here
        _crash()
    leave_the_rest()
    sys.exit(status if isinstance(status, int) else 0)


def script() -> None:
    """Be the process: run the command line and end with its exit status, at once where that is safe."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # else who started the process ignores it
        signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int):
            end_at_once(end.code)
        raise


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _write_no_more() -> None:
    """Let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_by(error: OSError) -> NoReturn:
    """Say in one line what the system says of a file, or of the output; the rest is an error of ours."""
    import errno

    from bnfold.atomic import NO_ROOM
    from bnfold.printable import visible

    if error.filename is not None and error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP):
        click.echo(f"bnfold: {visible(str(error.filename))}: can't be used ({error.strerror})", err=True)
    elif error.filename is None and error.errno in NO_ROOM:
        _write_no_more()
        click.echo(f"bnfold: the output can't be written ({error.strerror})", err=True)
    else:
        _crash()
    sys.exit(BnfoldError.exit_status)


def _crash() -> NoReturn:
    import traceback

    traceback.print_exc()
    click.echo("bnfold: an internal error; please report it with what stands above", err=True)
    sys.exit(BnfoldError.exit_status)
