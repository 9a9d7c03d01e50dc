"""What the judgement of an output looks at beside the whole: each sample, and each channel over all samples."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Channels:
    """Sums by channel over all samples, and the worst element of each."""

    truth: Array
    reference: Array
    candidate: Array
    count: int = 0
    peak: Array = field(default_factory=lambda: np.zeros(0))
    where: list[tuple[str, tuple[int, ...], tuple[float, float, float]]] = field(default_factory=list)

    @classmethod
    def zeros(cls, channels: int) -> "Channels":
        """Begin with nothing taken in."""
        blank = [("", (), (math.nan,) * 3) for _ in range(channels)]
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels), 0, np.full(channels, -1.0), blank)  # type: ignore[arg-type]

    def add(self, sample: str, truth: Array, own: Array, error: Array, sides: tuple[Array, Array]) -> None:
        """Take in a sample, channels on axis 1. own, error: of the reference and the candidate; sides: these two."""
        rest = tuple(axis for axis in range(truth.ndim) if axis != 1)
        for total, part in ((self.truth, truth), (self.reference, own), (self.candidate, error)):
            total += np.square(part).sum(rest)
        self.count += truth.size // max(truth.shape[1], 1)
        peaks = error.max(rest)
        for channel in np.flatnonzero(peaks > self.peak):
            part = error[:, channel]
            index = np.unravel_index(int(part.argmax()), part.shape)
            full = (int(index[0]), int(channel), *map(int, index[1:]))
            values = (float(sides[0][full]), float(sides[1][full]), float(truth[full]))
            self.peak[channel], self.where[channel] = peaks[channel], (sample, full, values)


@dataclass(frozen=True)
class Sample:
    """One sample's rms figures and its worst element; values: the reference's, the candidate's and the truth's."""

    name: str
    count: int
    scale: float
    own: float
    own_peak: float
    error: float
    peak: float
    index: tuple[int, ...]
    values: tuple[float, float, float]

    @classmethod
    def of(
        cls, name: str, truth: Array, own: Array, error: Array, finite: Array, sides: tuple[Array, Array]
    ) -> "Sample":
        """Measure one. own, error: of the reference and of the candidate, 0 where not finite; sides: these two."""
        count = int(finite.sum())
        index = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
        return cls(
            name=name,
            count=count,
            scale=_rms(truth[finite], count),
            own=_rms(own, count),
            own_peak=float(own.max()),
            error=_rms(error, count),
            peak=float(error.max()),
            index=index,
            values=(float(sides[0][index]), float(sides[1][index]), float(truth[index])),
        )


def _rms(values: Array, count: int) -> float:
    return math.sqrt(float(np.square(values).sum()) / count)
