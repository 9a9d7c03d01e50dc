"""What the judgement of an output looks at beside the whole: each sample, and each channel over all samples."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Errors:
    """One sample by element, errors as distances to the truth.

    run, moved: of the reference's own run, and of what rounding its numbers once more changes; candidate: of the
    candidate; all 0 where not `finite`. sides: the reference's and the candidate's values.
    """

    name: str
    truth: Array
    run: Array
    moved: Array
    candidate: Array
    finite: Array
    sides: tuple[Array, Array]

    @classmethod
    def of(cls, name: str, truth: Array, reference: Array, candidate: Array, nudged: Array) -> "Errors":
        """Measure one sample. nudged: the truth with every weight rounded once more."""
        finite = np.isfinite(truth) & np.isfinite(reference) & np.isfinite(candidate)
        with np.errstate(invalid="ignore"):  # infinity minus infinity, which `finite` leaves out
            run, moved, error = (np.where(finite, np.abs(x - truth), 0.0) for x in (reference, nudged, candidate))
        return cls(name, truth, run, _known(moved), error, finite, (reference, candidate))

    @property
    def own(self) -> Array:
        """The reference's own error: a fold keeps neither its roundings nor its weights'."""
        both: Array = np.hypot(self.run, self.moved)
        return both

    def widened(self, spread: Array) -> "Errors":
        """The same where rounding takes the elements no less far than `spread`."""
        return replace(self, moved=np.maximum(self.moved, np.where(self.finite, _known(spread), 0.0)))

    def sample(self) -> "Sample":
        """Sum up."""
        count = int(self.finite.sum())
        index = tuple(int(i) for i in np.unravel_index(int(self.candidate.argmax()), self.candidate.shape))
        own = self.own
        return Sample(
            name=self.name,
            count=count,
            scale=_rms(self.truth[self.finite], count),
            own=_rms(own, count),
            own_peak=float(own.max()),
            error=_rms(self.candidate, count),
            peak=float(self.candidate.max()),
            index=index,
            values=(float(self.sides[0][index]), float(self.sides[1][index]), float(self.truth[index])),
        )


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

    def add(self, errors: Errors) -> None:
        """Take in a sample, channels on axis 1."""
        truth = np.where(errors.finite, errors.truth, 0.0)
        rest = tuple(axis for axis in range(truth.ndim) if axis != 1)
        for total, part in ((self.truth, truth), (self.reference, errors.own), (self.candidate, errors.candidate)):
            total += np.square(part).sum(rest)
        self.count += truth.size // max(truth.shape[1], 1)
        peaks = errors.candidate.max(rest)
        for channel in np.flatnonzero(peaks > self.peak):
            part = errors.candidate[:, channel]
            index = np.unravel_index(int(part.argmax()), part.shape)
            full = (int(index[0]), int(channel), *map(int, index[1:]))
            values = (float(errors.sides[0][full]), float(errors.sides[1][full]), float(truth[full]))
            self.peak[channel], self.where[channel] = peaks[channel], (errors.name, full, values)

    def rms(self) -> tuple[Array, Array, Array]:
        """Give the truth, and the errors of the reference and the candidate, as rms by channel."""
        truth, reference, candidate = (
            np.sqrt(total / self.count) for total in (self.truth, self.reference, self.candidate)
        )
        return truth, reference, candidate

    def copy(self) -> "Channels":
        """Copy, so that adding to one leaves the other."""
        sums = (self.truth.copy(), self.reference.copy(), self.candidate.copy())
        return Channels(*sums, self.count, self.peak.copy(), list(self.where))


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


def _known(error: Array) -> Array:
    return np.where(np.isfinite(error), error, 0.0)


def _rms(values: Array, count: int) -> float:
    return math.sqrt(float(np.square(values).sum()) / count)
