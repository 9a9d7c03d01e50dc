"""The module's function in float64, without a second copy of its weights; and whether another one is the same."""

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_restoring import unchanged
from bnfold.errors import DifferentError, UnverifiedError

FACTOR = 3.0  # correct folds measured 0.68 to 1.26 times the unfolded model's error; the least wrong one 5
FLOOR = 4.0  # in units of rounding of the output's scale: below it, an error is luck
FLOAT64 = 4096.0  # the same for float64 modules, which are their own truth: what a deep one's rounding adds up to
_FEW = 2.0  # n numbers that tell the reference's own error allow 1 + 2 / sqrt(n) times as much, as in `check`
CEILING = 0.1  # a reference that is itself off by a tenth of the output's scale proves nothing


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Outputs in float64, and the scale of each: its root mean square, or that of what an activation cut it from."""

    tensors: Sequence[Tensor]
    scales: Sequence[float]


@dataclass(frozen=True, slots=True)
class Own:
    """How far an output of the module itself is from the truth, in units of its scale, by so many numbers."""

    error: float
    numbers: int


class Float64(TorchFunctionMode):
    """Every function sees its floating tensors in float64; a weight is widened while it is used, and no longer."""

    def __init__(self) -> None:
        super().__init__()
        self._before: MutableMapping[Tensor, float] = WeakTensorKeyDictionary()  # what an activation cut it from

    def scale(self, item: Tensor) -> float:
        """Give a result's scale: what a ReLU leaves may be next to nothing, but its error is that of its operand."""
        return max(self._before.get(item, 0.0), _finite_rms(_real(item)))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Widen what goes in, less what is written to, and what is made of nothing."""
        kwargs = dict(kwargs or {})
        kept = {name: kwargs.pop(name) for name in ("out",) if name in kwargs}
        first = args[:1] if _writes(getattr(func, "__name__", "").partition(".")[0]) else ()
        wide_args, wide_kwargs = pytree.tree_map(_wide, (tuple(args[len(first) :]), kwargs))
        name = getattr(func, "__name__", "").strip("_")
        source = next((item for item in (*first, *wide_args) if isinstance(item, Tensor)), None)
        before = self._scale_before(name, source)
        result = func(*first, *wide_args, **wide_kwargs, **kept)
        if before and isinstance(result, Tensor):
            self._before[result] = before
        made = not any(isinstance(item, Tensor) for item in pytree.tree_leaves((args, kwargs)))
        return pytree.tree_map(_wide, result) if made else result

    def _scale_before(self, name: str, source: Tensor | None) -> float:
        """Give the scale that the result of a function takes over, 0 for none."""
        if source is None or not source.is_floating_point():
            return 0.0
        if name in _CUTS:
            return self.scale(source)
        return self._before.get(source, 0.0) if name in _KEEPS else 0.0


def _writes(name: str) -> bool:
    """Whether a function changes its first argument: relu_, __iadd__, __setitem__."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in ("__setitem__", "__set__") or (name.startswith("__i") and name not in _NOT_IN_PLACE)


_CUTS = frozenset({"relu", "clamp_min"})
_KEEPS = frozenset(
    {"flatten", "reshape", "view", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous"}
)
_NOT_IN_PLACE = ("__invert__", "__index__", "__int__")


def _wide(item: Any) -> Any:
    if isinstance(item, torch.dtype):
        return torch.float64 if item.is_floating_point else torch.complex128 if item.is_complex else item
    if isinstance(item, Tensor) and _wide(item.dtype) != item.dtype:
        return item.to(_wide(item.dtype))
    return item


def outputs(module: nn.Module, given: Arguments) -> list[Tensor]:
    """Run without gradients and give every tensor of what comes out."""
    given = fresh(given)
    with torch.no_grad(), unchanged(module):
        return tensors_in(module(*given.args, **given.kwargs))


def truth(module: nn.Module, given: Arguments) -> Truth:
    """Run in float64."""
    given = fresh(given)
    with torch.no_grad(), unchanged(module):
        args, kwargs = pytree.tree_map(_wide, (given.args, dict(given.kwargs)))
        with Float64() as mode:
            result = module(*args, **kwargs)
        scales = [mode.scale(item) for item in pytree.tree_leaves(result) if isinstance(item, Tensor)]
        return Truth(tensors_in(result), scales)


def tensors_in(result: Any) -> list[Tensor]:
    """Give every tensor of what a module returns; complex numbers as pairs of real ones."""
    return [_real(item.detach()) for item in pytree.tree_leaves(result) if isinstance(item, Tensor)]


def _real(item: Tensor) -> Tensor:
    return torch.view_as_real(item.resolve_conj()) if item.is_complex() else item


def fresh(given: Arguments) -> Arguments:
    """Copy the inputs: a forward may write to them."""
    return Arguments(*pytree.tree_map(_copied, (given.args, dict(given.kwargs))))


def _copied(item: Any) -> Any:
    return item.clone() if isinstance(item, Tensor) else item


def rounding(module: nn.Module) -> float:
    """The coarsest unit of rounding of a module's weights: half-precision ones cost what they are rounded to."""
    return max((torch.finfo(item.dtype).eps for item in module.parameters() if item.is_floating_point()), default=0.0)


def own_errors(runs: Sequence[tuple[Truth, Sequence[Tensor]]]) -> list[Own]:
    """Give the own error of each output over several runs: the root mean square, weighted by the numbers."""
    return [_own_error(list(output)) for output in zip(*(_outputs(*run) for run in runs), strict=False)]


def _outputs(truth: Truth, reference: Sequence[Tensor]) -> list[tuple[Tensor, float, Tensor]]:
    return list(zip(truth.tensors, truth.scales, reference, strict=False))


def _own_error(output: Sequence[tuple[Tensor, float, Tensor]]) -> Own:
    total, numbers = 0.0, 0
    for true, scale, before in output:
        finite = torch.isfinite(true) & torch.isfinite(before) if before.shape == true.shape else None
        if finite is not None and before.is_floating_point() and 0 < scale < math.inf:
            total += float(((before.double() - true)[finite] / scale).square().sum())
            numbers += int(finite.sum())
    return Own(math.sqrt(total / numbers) if numbers else 0.0, numbers)


def require_same(
    truth: Truth,
    reference: Sequence[Tensor],
    folded: Sequence[Tensor],
    where: str,
    unit: float = 0.0,
    own: Sequence[Own] = (),
) -> None:
    """Hold the folded outputs to the truth as near as the reference's own are, within a factor.

    unit: of the weights' rounding, where it is coarser than the outputs'. own: what other runs tell as well.
    Raises DifferentError, or UnverifiedError where the reference is too far from the truth itself.
    """
    if not len(truth.tensors) == len(reference) == len(folded):
        raise DifferentError(f"{where}: {len(reference)} outputs became {len(folded)}")
    for index, (true, before, after) in enumerate(zip(truth.tensors, reference, folded, strict=True)):
        if before.shape != after.shape or before.dtype != after.dtype:
            raise DifferentError(
                f"{where}: output {index} was {tuple(before.shape)} {before.dtype} "
                f"and is {tuple(after.shape)} {after.dtype}"
            )
        known = own[index] if index < len(own) else _own_error([(true, truth.scales[index], before)])
        _require_near(true, before, after, f"{where}: output {index}", unit, truth.scales[index], known)


def _require_near(
    true: Tensor, before: Tensor, after: Tensor, where: str, unit: float, scale: float, known: Own
) -> None:
    if not before.is_floating_point():
        if not torch.equal(before, after):
            raise DifferentError(f"{where}: integers or flags differ")
        return
    finite = torch.isfinite(true) & torch.isfinite(before)
    if not torch.equal(torch.isfinite(before), torch.isfinite(after)):
        raise DifferentError(f"{where}: has NaN or infinities where the original has none, or the other way round")
    if finite.numel() and not finite.any():
        raise UnverifiedError(f"{where}: the original gives nothing but NaN and infinities")
    own, error = _rms((before.double() - true)[finite]), _rms((after.double() - true)[finite])
    if own > CEILING * scale and error > CEILING * scale:
        way_out = "give inputs like those it was trained on"
        if max(unit, torch.finfo(before.dtype).eps) > torch.finfo(torch.float32).eps:
            way_out = "fold it in float32, then convert"
        raise UnverifiedError(
            f"{where}: the original itself is {own / scale:.2g} of its scale away from float64, so that it can't show "
            f"what folding changes; {way_out}"
        )
    unit = max(unit, torch.finfo(before.dtype).eps)
    floor = FLOAT64 if unit == torch.finfo(torch.float64).eps else FLOOR
    factor = FACTOR * (1 + _FEW / math.sqrt(max(known.numbers, 1)))
    allowed = factor * max(own, known.error * scale) + floor * unit * scale
    if error > allowed:
        raise DifferentError(f"{where}: error {error:.3g} to the float64 truth, {allowed:.3g} allowed")


def _finite_rms(item: Tensor) -> float:
    if not item.is_floating_point() or not item.numel():
        return 0.0
    size = float(torch.linalg.vector_norm(item)) / item.numel() ** 0.5
    return size if math.isfinite(size) else _rms(item[torch.isfinite(item)])


def _rms(item: Tensor) -> float:
    return float(item.double().square().mean().sqrt()) if item.numel() else 0.0
