"""Affine maps along one axis of a tensor, and their algebra, in float64."""

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.record import record

Floats: TypeAlias = NDArray[np.float64]
_EPS = float(np.finfo(np.float64).eps)
_BOOL = np.dtype(np.bool_)

# For the channels of a layer, `any` and `all` take ten times as long as a look at the bytes, and five times as long as
# counting what isn't 0.


def some(marks: NDArray[np.generic] | float) -> bool:
    """Whether any isn't 0."""
    if isinstance(marks, float):
        return bool(marks)
    return 1 in marks.tobytes() if marks.dtype is _BOOL else bool(np.count_nonzero(marks))


def every(marks: NDArray[np.generic]) -> bool:
    """Whether none is 0."""
    return 0 not in marks.tobytes() if marks.dtype is _BOOL else int(np.count_nonzero(marks)) == marks.size


@record(eq=False)
class Affine:
    """y = scale * x + shift, channel by channel along `axis`.

    scale, shift: (C,) float64. An affine serves two ends: as an operator (an eval-mode BatchNorm is one) and as the
    *frame* of a tensor T: it gives T back from the T' which the folded graph computes, T = scale * T' + shift.
    """

    axis: int
    scale: Floats
    shift: Floats

    @property
    def channels(self) -> int:
        """The length of the axis."""
        return len(self.scale)

    @property
    def is_identity(self) -> bool:
        """Whether the map changes nothing, exactly."""
        return every(self.scale == 1) and not some(self.shift)

    def __call__(self, x: Floats) -> Floats:
        """Apply to a tensor whose `axis` has C channels."""
        shape = [1] * x.ndim
        shape[self.axis] = self.channels
        result: Floats = x * self.scale.reshape(shape) + self.shift.reshape(shape)
        return result

    def after(self, first: "Affine") -> "Affine":
        """Compose: self(first(x))."""
        return Affine(self.axis, self.scale * first.scale, self.scale * first.shift + self.shift)

    def inverse(self) -> "Affine":
        """Give x back from y; every scale must be other than 0."""
        return Affine(self.axis, 1 / self.scale, -self.shift / self.scale)

    @staticmethod
    def identity(axis: int, channels: int) -> "Affine":
        """y = x."""
        return Affine(axis, np.ones(channels), np.zeros(channels))


Frames: TypeAlias = Mapping[str, Affine]  # by value name; a value that is not named has the identity
Chain: TypeAlias = tuple[Affine, ...]  # T = chain[0](chain[1](... T')), where a tensor changed along several axes
Chains: TypeAlias = Mapping[str, Chain]  # by value name


def scale_along(chain: Chain, axis: int, channels: int) -> Floats:
    """Give the scale of a chain of frames along one axis, (C,)."""
    return math.prod((frame.scale for frame in chain if frame.axis == axis), start=np.ones(channels))


def of_batch_norm(
    axis: int, gamma: Floats, beta: Floats, mean: Floats, variance: Floats, eps: float | Floats
) -> Affine:
    """Eval-mode BatchNorm as an affine (Ioffe and Szegedy 2015, algorithm 2, step 11).

    s = gamma / sqrt(running_var + eps),  t = beta - running_mean * s; all arguments (C,) float64, eps one number or
    (C,). Where the two terms of t cancel but for float64's rounding it is exactly 0, since a shift of 0 passes where no
    other does.
    """
    scale = gamma / np.sqrt(variance + eps)
    shift = beta - mean * scale
    return Affine(axis, scale, np.where(np.abs(shift) <= 4 * _EPS * np.abs(beta), 0.0, shift))
