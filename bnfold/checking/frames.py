"""How values of the reference stand to values of the candidate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Frame:
    """One value of the reference in terms of one of the candidate:  T_ref = scale * T_cand + shift  along `axis`.

    `scale` and `shift`: float64, one number or one for each channel.
    """

    candidate: str
    axis: int = 1
    scale: Array | float = 1.0
    shift: Array | float = 0.0

    def apply(self, candidate: Array) -> Array:
        """Give the reference's value for the candidate's; `candidate`: any shape with the channels on `axis`."""
        return self._broadcast(self.scale, candidate.ndim) * candidate + self._broadcast(self.shift, candidate.ndim)

    def _broadcast(self, value: Array | float, ndim: int) -> Array:
        array = np.asarray(value, np.float64)
        if array.size == 1:
            return array.reshape(())
        shape = [1] * ndim
        shape[self.axis] = array.size
        return array.reshape(shape)


Correspondence = Mapping[str, Frame]
