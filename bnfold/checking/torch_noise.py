"""Every number of a run moved by its rounding: what a right program, in whatever order it adds, may do to a result."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._pytree import tree_leaves, tree_map

from bnfold.checking.torch_modes import Mode

_ATEN = torch.ops.aten
# These hold means and variances, which round as well.
_PARTS: Mapping[Any, Callable[..., Any]] = get_decompositions(
    [_ATEN.native_batch_norm, _ATEN.native_layer_norm, _ATEN.native_group_norm, _ATEN._native_batch_norm_legit]
)
_PLAIN, _CENTRED = ("mean", "sum"), ("var", "var_mean", "std", "std_mean")  # whose second argument are the axes
_SUMS = (*_PLAIN, *_CENTRED, "linalg_vector_norm")
_LANES = 8  # of the narrowest vectors that runtimes add with
_SINGLE = 2.0**-24  # sums of half precision are added up in this
# Computed as a number of size 1, or as one times x, from which most is subtracted where x is negative.
_OF_ONE, _OF_INPUT = ("sigmoid", "softplus"), ("silu", "gelu", "mish")


def nudge(value: Tensor, unit: float, generator: torch.Generator, size: Tensor | float | None = None) -> Tensor:
    """Add unit * size * noise to floats, noise uniform in [-1, 1]; leave other numbers. size: |value| if not given."""
    if not _is_float(value):
        return value
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float64) * 2 - 1
    if size is None:
        return value * (1 + unit * noise).to(value.dtype)
    return value + (unit * size * noise).to(value.dtype)


class NoiseMode(Mode):  # type: ignore[no-untyped-call]
    """Moves the floats that every operator makes of floats. A view has the numbers of its base, which were moved."""

    def __init__(self, unit: float, generator: torch.Generator) -> None:
        super().__init__()
        self._unit, self._generator = unit, generator

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `func` and move its results, in place where it writes them in place."""
        if func in _PARTS:
            with self:
                return _PARTS[func](*args, **kwargs)
        results = func(*args, **kwargs)
        read = [leaf for leaf in tree_leaves((args, kwargs)) if _is_float(leaf)]
        if func.is_view or not read:
            return results

        def moved(value: Any) -> Any:
            if not _is_float(value):
                return value
            return nudge(value, self._unit, self._generator, _size(func, args, read[0], value, self._unit))

        if not func._schema.is_mutable:
            return tree_map(moved, results)
        for value in filter(_is_float, tree_leaves(results)):
            value.copy_(moved(value))
        return results


def _size(func: Any, args: tuple[Any, ...], x: Tensor, result: Tensor, unit: float) -> Tensor | float:
    """What the rounding of a result is relative to.

    Added one by one, n like numbers round at k / n of their sum for k = 1 to n, at random: sqrt(n / 3) times it in all.
    A sum of products needs no such thing, since its weights are moved too, each on its own.
    """
    name = func._schema.name.removeprefix("aten::").strip("_")
    if name in _OF_ONE:
        return 1.0
    if name in _OF_INPUT:
        return x.abs()
    if name not in _SUMS:
        return result.abs()
    count = x.numel() / max(result.numel(), 1)
    times = math.sqrt(max(count / 3, 1.0))
    if name not in (*_PLAIN, *_CENTRED) or count <= _LANES or unit > _SINGLE:
        return result.abs() * times
    equal = _equals(x, args, count * unit, zeros=name in _CENTRED).reshape(result.shape)
    return result.abs() * (equal / (2 * _LANES)).clamp(min=times)


def _equals(x: Tensor, args: tuple[Any, ...], near: float, *, zeros: bool) -> Tensor:
    """How many numbers of each sum or mean are like the one before them, but for `near` of the mean size.

    They don't round at random (an image of one colour, averaged): while the sum stays between two powers of 2, each
    addition errs by the same share of its spacing, by `unit` of the sum at most. `zeros`: whether they count, as in a
    variance, to which each adds the square of the mean; in a plain sum they err by nothing.

    So m of them err by m unit of the sum where it hardly grows (a variance, behind the square of one bright pixel),
    and by m / 4 where it is they alone: the last t of it, 1/2 < t <= 1, is added by (1 - t) m of them, each of
    which errs by t unit. Runtimes add in lanes, m = n / lanes. Measured on n = 784 to 200,704 float32: 0.94 m for a
    variance in eight lanes; for means n / 4 in one lane (torch's avg_pool2d), n / 16 in four (ONNX Runtime's
    GlobalAveragePool), n / 32 in eight (its ReduceMean), half of that as rms over all colours. The noise of m / 2
    for eight lanes has an rms of n / 28, of which the budgets allow three times and more: what was measured in
    lanes is within that.
    """
    named = args[1] if len(args) > 1 else None
    axes = tuple(axis % x.ndim for axis in named) if named else tuple(range(x.ndim))
    along = max(axes, key=lambda axis: x.shape[axis])
    bound = near * x.abs().mean(axes, keepdim=True)
    later = x.narrow(along, 1, x.shape[along] - 1)
    alike = x.diff(dim=along).abs() <= bound
    return (alike if zeros else alike & (later.abs() > bound)).sum(axes, dtype=torch.float64)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
