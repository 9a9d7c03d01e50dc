"""Options that several commands share, each declared once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

FILE = click.Path(path_type=Path)
_SETTINGS = "bnfold.settings"  # among what click keeps for a command
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Option = Callable[[Any], Any]


def _as_set(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Take what the project's pyproject.toml sets, where the command line says nothing and gives no plan."""
    name = param.name or ""
    if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT or ctx.params.get("plan") is not None:
        return value
    if _SETTINGS not in ctx.meta:
        from bnfold import settings

        ctx.meta[_SETTINGS] = settings.load()
    return getattr(ctx.meta[_SETTINGS], name)


_SELECTION: tuple[_Option, ...] = (
    click.option("--level", type=click.Choice(["default", "max"]), default="default", show_default=True,
                 callback=_as_set,
                 help="default never makes a model slower; max removes all that can be removed exactly."),
    click.option("--only", multiple=True, metavar="PATTERN", callback=_as_set,
                 help="Fold these affines alone (a shell pattern)."),
    click.option("--skip", multiple=True, metavar="PATTERN", callback=_as_set, help="Leave these affines."),
    click.option("--merge/--no-merge", default=True, show_default=True,
                 help="Let parallel linear branches become one convolution (.onnx and .pt2 results)."),
)  # fmt: skip
_ARCHITECTURE: tuple[_Option, ...] = (
    click.option("--arch", help="What builds the network of a state_dict: a name of bnfold.models, "
                 "package.module:Factory or path/to/file.py:Factory."),
    click.option("--arch-kwargs", "--arch-arg", "arch_arguments", multiple=True, metavar="KEY=VALUE",
                 help="An argument of --arch."),
)  # fmt: skip
inputs = click.option("--input", "inputs", multiple=True, metavar="[NAME=]SHAPE[:DTYPE]",
                      help="Example input, as 1x3x224x224, or an .npz file; again for more inputs.")  # fmt: skip
trust = click.option("--trust", is_flag=True, help="Let a model file run code.")
max_bytes = click.option("--max-bytes", type=click.IntRange(min=1),
                         help="The most that a PyTorch archive may unpack to.")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/json.md).")
_PREPARATION: tuple[_Option, ...] = (
    click.option("--bake", is_flag=True, help="Make plain weights of weight_norm, spectral_norm and pruning."),
    click.option("--freeze-inputs", is_flag=True, help="ONNX weights that are inputs too are never overridden."),
)


def selection(function: _Function) -> _Function:
    """Add the options that say what is folded."""
    return _with(function, _SELECTION)


def architecture(function: _Function) -> _Function:
    """Add the options that say what builds the network of a file of weights."""
    return _with(function, _ARCHITECTURE)


def opening(function: _Function) -> _Function:
    """Add the options that say how the model of a fold is opened."""
    return architecture(_with(function, (inputs, trust, max_bytes, *_PREPARATION)))


def _with(function: _Function, options: Sequence[_Option]) -> _Function:
    for option in reversed(options):
        function = option(function)
    return function


def typed_patterns() -> tuple[str, ...]:
    """Give the patterns of the command line; those of pyproject.toml may be meant for other models."""
    context = click.get_current_context()
    typed = [name for name in ("only", "skip") if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return tuple(pattern for name in typed for pattern in context.params[name])
