"""torch.export at one size and at others: a capture shows one path, and its guards don't say when another is taken."""

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_restoring import unchanged
from bnfold.errors import BnfoldError

BATCHES = (1, 2, 3)


class CaptureError(BnfoldError):
    """torch.export can't follow the module's forward."""


@dataclass(frozen=True, eq=False)
class Arguments:
    """What a module is called with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, also inside of lists, dicts and dataclasses."""
        return [item for item in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(item, Tensor)]

    def resized(self, resize: "Mapping[int, int] | None", batch: int | None = None) -> "Arguments":
        """Give other sizes: `batch` in place of the batch, and by axis (2 and on) how much longer it gets."""
        old = self.batch

        def changed(item: Any) -> Any:
            if not isinstance(item, Tensor) or item.ndim == 0:
                return item
            shape = list(item.shape)
            if batch is not None and shape[0] == old:
                shape[0] = batch
            for axis, more in (resize or {}).items():
                if axis < len(shape) and item.is_floating_point():
                    shape[axis] += more
            return _repeated(item, shape)

        args, kwargs = pytree.tree_map(changed, (self.args, dict(self.kwargs)))
        return Arguments(args, kwargs)

    @property
    def batch(self) -> int | None:
        """The length of axis 0, where all tensors that have one agree on it."""
        lengths = {item.shape[0] for item in self.tensors if item.ndim > 0}
        return lengths.pop() if len(lengths) == 1 else None


def _repeated(item: Tensor, shape: Sequence[int]) -> Tensor:
    """Give a tensor of this shape, made of the elements of `item` taken over and over."""
    if tuple(shape) == tuple(item.shape) or item.numel() == 0:
        return item
    flat = item.reshape(-1)
    count = int(torch.Size(shape).numel())
    return flat.repeat(-(-count // flat.numel()))[:count].reshape(tuple(shape))


def arguments(example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Arguments:
    """Accept one tensor, or a tuple or list of positional arguments."""
    args = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    return Arguments(() if example_inputs is None else args, dict(kwargs or {}))


def capture(module: nn.Module, given: Arguments) -> ExportedProgram:
    """Export with these sizes, in eval mode as the module is, without gradients.

    Raises CaptureError with the first line of what torch.export says.
    """
    with unchanged(module):
        return exported(module, given)


def exported(module: nn.Module, given: Arguments, dynamic_shapes: Any = None) -> ExportedProgram:
    """Call torch.export and nothing else. Raises CaptureError with the first line of what it says, and the code."""
    try:
        with torch.no_grad(), quietly(), _without_graphs():
            return torch.export.export(
                module, given.args, dict(given.kwargs), dynamic_shapes=dynamic_shapes, strict=False
            )
    except Exception as error:
        raise CaptureError(f"{type(module).__name__}: torch.export can't follow it ({_brief(error)})") from error


_CALL = re.compile(r'The following call raised this error:\n  File "([^"]+)", line (\d+), in \w+\n +(\S.*)')


def _brief(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    found = _CALL.search(str(error))
    place = "" if found is None else f"; at {Path(found[1]).name}, line {found[2]}: {found[3][:80]}"
    return f"{type(error).__name__}: {line[:200]}{place}"


@contextlib.contextmanager
def _without_graphs() -> Iterator[None]:
    """Leave out the graph that torch prints to stderr before it raises; what the forward itself prints there stays."""
    held, unwanted = io.StringIO(), ""
    try:
        with contextlib.redirect_stderr(held):
            yield
    except Exception as error:
        unwanted = f"{error.partial_fx_graph}\n" if hasattr(error, "partial_fx_graph") else ""
        raise
    finally:
        sys.stderr.write(held.getvalue().replace(unwanted, "") if unwanted else held.getvalue())


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run what torch.compile made as it was written: it would compile whatever follows a forward as well."""
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep torch's own warnings and logs out of the user's way: they speak of torch's insides."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def other_batches(given: Arguments) -> Iterator[Arguments]:
    """Give the same arguments with batch sizes 1, 2 and 3, less their own."""
    own = given.batch
    if own is None:
        return
    for batch in BATCHES:
        if batch != own:
            yield given.resized(None, batch)


def other_sizes(given: Arguments) -> Iterator[Arguments]:
    """Give larger maps: an odd step, for forwards that look at parity, and a step of 32, which most networks take."""
    spatial = range(2, max((item.ndim for item in given.tensors if item.is_floating_point()), default=0))
    if spatial:
        yield given.resized(dict.fromkeys(spatial, 32))
        yield given.resized(dict.fromkeys(spatial, 1))
