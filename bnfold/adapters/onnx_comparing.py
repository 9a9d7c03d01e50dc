"""The numbers that a fold writes against a float64 recomputation, as they are written."""

import math

import numpy as np

from bnfold.adapters.onnx_content import Dense, Scratch, rounded
from bnfold.adapters.onnx_evaluators import Array
from bnfold.affine import Floats
from bnfold.dtypes import numpy_dtype
from bnfold.errors import BnfoldError


class AuditError(BnfoldError):
    """What would be written isn't what the plan says. Nothing is written."""


def check(after: Array, before: Array, factor: Floats | int, dtype: str, scratch: Scratch, name: str) -> None:
    """Hold W' against W * factor, which broadcasts against it; weights that were NaN or infinite before stay so.

    Raises AuditError where numbers are more than 1 ULP apart (8 in float64), BnfoldError where they overflow.
    """
    ulps = 8 if dtype == "float64" else 1  # there both sides round at each of their three steps
    _refuse_overflow(after, before, name)
    if dtype == "bfloat16":
        wanted = rounded(before.astype(np.float64) * factor, dtype)
        held = bytearray(as_bytes(wanted))
    else:
        held = scratch.bytes("wanted", before.nbytes)
        wanted = np.frombuffer(held, before.dtype, before.size).reshape(before.shape)
        np.multiply(before, factor, out=wanted, dtype=np.float64, casting="unsafe")
    # Three times as quick as NumPy's comparison; beyond these bytes stand those of a larger block.
    if after.shape == wanted.shape and held.startswith(as_bytes(after)):
        return
    expected = before.astype(np.float64) * factor
    apart = np.abs(after.astype(np.float64) - expected) > ulps * _ulp(wanted, dtype)
    if np.any(apart & np.isfinite(expected)):
        raise AuditError(
            f"{name}: {int(apart.sum())} numbers are more than {ulps} ULP from what the frames say; nothing was written"
        )


def dense(content: Dense, name: str) -> memoryview:
    """Give the bytes of numbers at hand. Raises BnfoldError where they overflow their dtype."""
    after = rounded(content.numbers, content.dtype)
    _refuse_overflow(after, content.numbers, name)
    if content.nbytes < after.nbytes:  # a zero point of four bits: two share a byte
        from onnx import numpy_helper

        return memoryview(numpy_helper.from_array(after).raw_data)
    return as_bytes(after)


def as_bytes(array: Array) -> memoryview:
    """Give the bytes of an array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _ulp(wanted: Array, dtype: str) -> Floats:
    """The spacing of the dtype's numbers at these."""
    if dtype == "bfloat16":
        exponent = np.frexp(wanted.astype(np.float64))[1]
        spacing: Floats = np.ldexp(1.0, np.maximum(exponent - 8, -133))
        return spacing
    with np.errstate(all="ignore"):
        found: Floats = np.spacing(np.abs(wanted.astype(numpy_dtype(dtype)))).astype(np.float64)
    return found


def _all_finite(numbers: Array) -> bool:
    """Whether all are finite, for certain: the squares of large ones may overflow, and then it says no."""
    if numbers.dtype.itemsize < 4:
        return numbers.size == 0 or (math.isfinite(numbers.max()) and math.isfinite(numbers.min()))
    flat = numbers.reshape(-1)
    return math.isfinite(np.dot(flat, flat))  # a third of the time that the largest and the smallest take


def _refuse_overflow(after: Array, before: Array | Floats, name: str) -> None:
    """Refuse infinities and NaN where there were numbers."""
    if _all_finite(after):
        return
    with np.errstate(all="ignore"):
        lost = ~np.isfinite(after.astype(np.float64)) & np.isfinite(np.asarray(before, np.float64))
    if lost.any():
        raise BnfoldError(f"{name}: {int(lost.sum())} numbers would overflow {after.dtype.name}; nothing was written")
