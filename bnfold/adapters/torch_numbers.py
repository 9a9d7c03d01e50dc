"""Float64 numbers as tensors of the module's own dtypes, each rounded once."""

import numpy as np
import torch
from torch import Tensor

from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Constant
from bnfold.plan import ScaleWeight
from bnfold.relation import Contracted
from bnfold.rounding import scaled
from bnfold.rules.weights import weight_factors


def scaled_like(path: str, old: Tensor, linear: Contracted, weight: Constant, edit: ScaleWeight) -> Tensor:
    """Give a weight times its factors: shape, dtype, memory format and device of `old`, which `weight` reads.

    Stretch by stretch, each a copy of the numbers, so that float64 is never held whole. Raises BnfoldError where the
    dtype overflows.
    """
    if edit.balance is not None:
        return finite(path, rounded(scaled(linear, weight, edit), old), old)
    new = torch.empty_like(old, memory_format=torch.preserve_format).detach()
    both = weight_factors(linear, weight.shape, edit.out_factor, edit.in_factor)
    factors = [factor for factor in both if not np.all(factor == 1)]
    for rows, numbers in weight.slabs():
        for factor in factors:
            numbers *= factor[rows] if len(factor) == weight.shape[0] else factor
        stretch = new[rows]
        stretch.copy_(torch.from_numpy(_rounded_once(numbers, old.dtype)))
        finite(path, stretch, old)
    return new


def finite(path: str, new: Tensor, old: Tensor | None = None) -> Tensor:
    """Give the tensor back. Raises BnfoldError where it has infinities or NaN. old: what it was, where it was."""
    if not _is_finite(new):
        if old is not None and not _is_finite(old):
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
