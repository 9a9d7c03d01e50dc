"""Float64 numbers as tensors of the module's own dtypes, each rounded once."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Constant
from bnfold.plan import ScaleWeight
from bnfold.relation import Contracted
from bnfold.rounding import HALF, faithful, is_exact, scaled
from bnfold.rules.weights import weight_factors


def scale_into(new: Tensor, linear: Contracted, weight: Constant, edit: ScaleWeight) -> None:
    """Fill a tensor with a weight times its factors, each rounded once.

    Stretch by stretch, so that float64 is never held whole; `new` may be the memory that `weight` reads. Raises
    BnfoldError where the dtype overflows.
    """
    for rows, numbers in _scaled(linear, weight, edit):
        stretch = new[rows]
        stretch.copy_(torch.from_numpy(_rounded_once(numbers, new.dtype)))
        finite(weight.name, stretch, weight)


def _scaled(linear: Contracted, weight: Constant, edit: ScaleWeight) -> Iterator[tuple[slice, Floats]]:
    """Give stretches of axis 0; all at once where a row to balance isn't in one of them."""
    balance = edit.balance if weight.dtype in HALF else None
    if balance is not None and linear.out_axis != 0:
        yield slice(None), scaled(linear, weight, edit)
        return
    both = weight_factors(linear, weight.shape, edit.out_factor, edit.in_factor)
    factors = [factor for factor in both if not np.all(factor == 1)]
    is_stored = is_exact(edit.out_factor, edit.in_factor)
    for rows, numbers in weight.slabs():
        for factor in factors:
            numbers *= factor[rows] if len(factor) == weight.shape[0] else factor
        if balance is not None:
            numbers = faithful(linear, numbers, weight.dtype, balance, rows, is_stored=is_stored)
        yield rows, numbers


def finite(path: str, new: Tensor, old: Constant | None = None) -> Tensor:
    """Give the tensor back. Raises BnfoldError where it has infinities or NaN. old: what it was, where it was."""
    if not _is_finite(new):
        if old is not None and not all(np.isfinite(numbers).all() for _, numbers in old.slabs()):
            raise BnfoldError(f"{path}: holds NaN or infinities; repair it, or --skip what would fold into it")
        raise BnfoldError(f"{path}: would overflow {new.dtype}; fold in float32, then convert")
    return new


def _is_finite(item: Tensor) -> bool:
    return item.numel() == 0 or all(map(torch.isfinite, torch.aminmax(item)))


def rounded(numbers: Floats, like: Tensor) -> Tensor:
    """Round float64 once to the dtype of `like`, in its memory format and on its device."""
    new = torch.empty_like(like, memory_format=torch.preserve_format) if like.shape == numbers.shape else None
    values = torch.from_numpy(np.ascontiguousarray(_rounded_once(numbers, like.dtype)))
    if new is None:
        return values.to(dtype=like.dtype, device=like.device)
    new = new.detach()
    new.copy_(values)
    return new


def _rounded_once(numbers: Floats, dtype: torch.dtype) -> np.ndarray:
    """Torch rounds float64 to the half types by way of float32; this comes to the nearest at once."""
    if dtype == torch.float16:
        with np.errstate(over="ignore"):
            return numbers.astype(np.float16)
    if dtype == torch.bfloat16:
        return _to_odd(numbers)
    return numbers


def _to_odd(numbers: Floats) -> np.ndarray:
    """Round to float32 with the last bit set where something was lost: a second rounding then can't mistake a tie."""
    with np.errstate(over="ignore"):
        near = numbers.astype(np.float32)
    away = np.abs(near.astype(np.float64)) > np.abs(numbers)
    cut = np.where(away, np.nextafter(near, np.float32(0)), near)
    lost = np.isfinite(near) & (cut.astype(np.float64) != numbers)
    bits = np.ascontiguousarray(cut).view(np.uint32) | lost.astype(np.uint32)
    odd: np.ndarray = bits.view(np.float32)
    return odd
