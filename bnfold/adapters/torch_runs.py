"""What a module gives at several inputs: the standard that its fold is held to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.adapters import torch_truth
from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_inputs import random_tensor
from bnfold.errors import UnverifiedError

ENOUGH = 16  # numbers of an output, in all runs together, that tell a module's own error
MORE = ENOUGH - 1  # runs, at most, that are added for that
_STEP = 1 / 64  # by how much each further input is fainter


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Inputs, the outputs for them in float64, and what the module itself gives."""

    given: Arguments
    truth: torch_truth.Truth
    reference: Sequence[Tensor]


def run(module: nn.Module, given: Arguments, reference: Sequence[Tensor] | None = None) -> Run:
    """Run in float64, and as it is where that was not done yet. Raises UnverifiedError where there is no float64."""
    if reference is None:
        reference = torch_truth.outputs(module, given)
    try:
        return Run(given, torch_truth.truth(module, given), reference)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise UnverifiedError(
            f"{type(module).__name__}: doesn't run in float64 ({type(error).__name__}: {line}), so that no fold of it "
            "can be shown to be right; fold before quantising or lowering"
        ) from error


def is_random(module: nn.Module, given: Arguments) -> bool:
    """Whether two runs with the same inputs give other numbers."""
    return not _equal(torch_truth.outputs(module, given), torch_truth.outputs(module, given))


def enough(module: nn.Module, runs: Sequence[Run], most: int) -> list[Run]:
    """Add up to `most` runs on fainter inputs where an output has few numbers.

    The error of a single number is small by luck at times, and a right fold is not as lucky.
    Raises UnverifiedError where every output of every run is empty.
    """
    found, first = list(runs), runs[0].given
    outputs = [item for one in runs for item in one.reference]
    if outputs and not any(item.numel() for item in outputs):
        raise UnverifiedError("nothing can be compared: every output is empty; give inputs of at least one row")
    if not any(item.is_floating_point() for item in first.tensors):
        return found
    for step in range(1, most + 1):
        if min((own.numbers for own in standard(found) if own.numbers), default=ENOUGH) >= ENOUGH:
            break
        try:
            found.append(run(module, _fainter(first, 1 - step * _STEP)))
        except Exception:  # noqa: BLE001 - it takes no such numbers
            break
    return found


def standard(runs: Sequence[Run]) -> list[torch_truth.Own]:
    """How well the module itself computes each output, by all runs."""
    return torch_truth.own_errors([(one.truth, one.reference) for one in runs])


def require_telling(module: nn.Module, given: Arguments, name: str) -> None:
    """Raise UnverifiedError where no output changes with the inputs: whatever a fold does behind them, it isn't seen.

    Inputs of other numbers that the module doesn't take say nothing about that.
    """
    if not any(item.numel() for item in given.tensors):
        raise UnverifiedError(f"{name}: takes no input, so there is nothing to tell models apart by")
    before, others = torch_truth.truth(module, given).tensors, 0
    for other in (_mapped(given, change) for change in _CHANGES):
        if _equal(given.tensors, other.tensors):
            continue
        try:
            after = torch_truth.truth(module, other).tensors
        except Exception:  # noqa: BLE001, S112 - it takes no such numbers
            continue
        if not _equal(before, after):
            return
        others += 1
    if others:
        raise UnverifiedError(
            f"{name}: no output changes with the input: that tells no models apart; give inputs like "
            "those it was trained on"
        )


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)
    )


def _fresh(item: Tensor) -> Tensor:
    return random_tensor(tuple(item.shape), item.dtype).to(item.device)


def _scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda item: item * factor if item.is_floating_point() else item


_CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda item: item.flip(tuple(range(item.ndim))),  # of indices and masks, too, a value that there is already
    _fresh,
    lambda item: (item == 0).to(item.dtype),
    _scaled(-1.0),
    _scaled(4.0),
    _scaled(-4.0),
)


def _fainter(given: Arguments, factor: float) -> Arguments:
    return _mapped(given, _scaled(factor))


def _mapped(given: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    args, kwargs = pytree.tree_map(
        lambda item: change(item) if isinstance(item, Tensor) else item, (given.args, dict(given.kwargs))
    )
    return Arguments(args, kwargs)
