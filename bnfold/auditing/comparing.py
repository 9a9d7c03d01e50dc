"""Numbers that were written against the float64 ones: how many units in the last place they are apart at most."""

import math
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Floats
from bnfold.record import record

ALLOWED = 1.0  # ULP: 0.5 for one rounding; 1 in half (`bnfold.rounding`), or for a Gemm's beta times a rounded bias
FLOAT64 = 1024.0  # ULP, in a float64 file: sums of fold and audit differ in order, and shifts of two folds may cancel
NEAREST = 0.5  # ULP: a number that is the nearest one is at most this far away
# Bits behind the leading one, and the exponent of the smallest normal number, by dtype (IEEE 754).
FORMATS = {"float16": (10, -14), "bfloat16": (7, -126), "float32": (23, -126), "float64": (52, -1022)}
_ROUNDED = {"float16": np.float16, "float32": np.float32}  # NumPy rounds float64 to these at once


@record
class AuditRow:
    """One constant. ulp: the greatest error, infinite where a number is missing or NaN. index: where that is.

    Where every number is the nearest one there is, ulp is 0.5, which none of them exceeds, and index is empty.
    part: weight, bias, constants or identity (of an affine that went). elements: how many were compared.
    """

    node: str
    part: str
    elements: int
    ulp: float
    index: tuple[int, ...]
    allowed: float = ALLOWED

    @property
    def passed(self) -> bool:
        """Whether the greatest error is allowed."""
        return self.ulp <= self.allowed

    def __str__(self) -> str:
        """`conv1: weight: 432 elements, 0.50 ULP at (3, 0, 1, 1), 1 allowed`."""
        return (
            f"{self.node}: {self.part}: {self.elements} elements, {self.ulp:.2f} ULP at {self.index}, "
            f"{self.allowed:g} allowed"
        )


@record(eq=False, frozen=False)
class Comparison:
    """The greatest error so far of a constant that is compared stretch by stretch of its axis 0."""

    dtype: str
    elements: int = 0
    ulp: float = 0.0
    index: tuple[int, ...] = field(default=())

    def compare(self, got: NDArray[np.floating], wanted: Floats, start: int = 0) -> None:
        """Take in rows from `start` on: what was written, in any floating dtype, and the float64 numbers."""
        self.elements += wanted.size
        if _all_nearest(got, wanted, self.dtype):
            if wanted.size and self.ulp < NEAREST:
                self.ulp, self.index = NEAREST, ()
            return
        self.add(errors(got, wanted, np.abs(wanted), self.dtype), start)

    def add(self, found: Floats, start: int = 0) -> None:
        """Take in errors in ULP."""
        found = np.where(np.isnan(found), np.inf, found)
        if not found.size:
            return
        index = np.unravel_index(int(np.argmax(found)), found.shape)
        if found[index] > self.ulp:
            first, *rest = (int(place) for place in index) if index else (0,)
            self.ulp, self.index = float(found[index]), (first + start, *rest) if index else ()

    def row(self, node: str, part: str) -> AuditRow:
        """Sum up."""
        return AuditRow(node, part, self.elements, self.ulp, self.index, allowed(self.dtype))


def _all_nearest(got: NDArray[np.floating], wanted: Floats, dtype: str) -> bool:
    """Whether each number is the float64 one rounded to nearest; False where that isn't sure at a glance.

    An infinity, or a sum that overflows, is for the longer look.
    """
    kind = _ROUNDED.get(dtype)
    if kind is None:
        return False
    with np.errstate(all="ignore"):
        nearest = wanted.astype(kind)
        return bool((got == nearest).all()) and math.isfinite(nearest.sum(dtype=np.float32))


def errors(got: NDArray[np.floating], wanted: Floats, sizes: Floats, dtype: str) -> Floats:
    """Give the errors in ULP of the numbers or of their largest terms, `sizes`; equal infinities have none."""
    units = ulp(np.maximum(sizes, np.abs(wanted)), dtype)  # a sum may be larger than its terms
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(got == wanted, 0.0, np.abs(got - wanted) / units)


def allowed(dtype: str) -> float:
    """Give the greatest error in ULP that one rounding to a dtype explains."""
    return FLOAT64 if dtype == "float64" else ALLOWED


def ulp(sizes: Floats, dtype: str) -> Floats:
    """Give the spacing of a dtype's numbers at each size, its subnormal spacing below the smallest normal one."""
    bits, smallest = FORMATS.get(dtype, FORMATS["float32"])
    mantissas, exponents = np.frexp(np.asarray(sizes, np.float64))
    places = np.where(mantissas == 0, smallest, np.maximum(exponents - 1, smallest))
    return np.asarray(np.ldexp(1.0, places - bits))
