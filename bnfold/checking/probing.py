"""More and wider inputs, for what the usual ones show nothing of: shut ReLUs, and outputs that seldom change."""

import math
from collections.abc import Iterator

import numpy as np

from bnfold.checking.inputs import Sample
from bnfold.checking.subject import Array, Feed
from bnfold.checking.trial import Trial
from bnfold.errors import UnverifiedError

_WIDER = (1, 4, 16, 64, 256)  # times the typical input: a shift that keeps a ReLU shut gives way to some scale
_NUMBERS = 2_000_000  # that are drawn in all, but for once at each width
_ROUNDS = 40


def telling(trial: Trial, seed: int) -> Sample | None:
    """Find the input on which the two sides are furthest apart in float64, relative to the truth.

    None where all are within a rounding, or where a side has no float64 form.
    """
    if trial.typical is None:
        return None
    found, furthest = None, trial.row.unit
    try:
        for sample in _drawn(trial.typical.feed, seed):
            gap = _gap(trial, sample.feed)
            if gap > furthest:
                found, furthest = sample, gap
    except UnverifiedError:  # a golden file holds no model, and an operator may not take such numbers
        return found
    return found


def _drawn(typical: Feed, seed: int) -> Iterator[Sample]:
    generator = np.random.default_rng(seed)
    size = sum(array.size for array in typical) * len(_WIDER)
    for i in range(max(1, min(_ROUNDS, _NUMBERS // max(size, 1)))):
        for times in _WIDER:
            feed = tuple(_like(array, times, generator) for array in typical)
            yield Sample(f"wider/{times}" + (f"#{i + 1}" if i else ""), "random", feed)


def _like(array: Array, times: float, generator: np.random.Generator) -> Array:
    """Normal numbers of the array's rms, `times` as wide; of whole numbers the same ones in another order."""
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return generator.permutation(array.ravel()).reshape(array.shape)
    level = math.sqrt(float(np.square(array.astype(np.float64)).mean())) if array.size else 0.0
    drawn = np.asarray(generator.standard_normal(array.shape))
    wider: Array = (drawn * ((level or 1.0) * times)).astype(array.dtype)
    return wider


def _gap(trial: Trial, feed: Feed) -> float:
    truth, theirs = trial.reference.truth(feed), trial.candidate.truth(trial.feed(feed))
    pairs = [(truth[name], theirs[comparison.candidate_name]) for name, comparison in trial.comparisons.items()]
    return max((_distance(*pair) for pair in pairs), default=0.0)


def _distance(truth: Array, other: Array) -> float:
    """Relative L2 distance; infinite where the truth alone is finite, and 0 where it isn't."""
    if truth.shape != other.shape:
        return math.inf
    size = float(np.linalg.norm(truth.astype(np.float64)))
    if not math.isfinite(size):
        return 0.0
    off = float(np.linalg.norm(truth.astype(np.float64) - other))
    return off / size if size and math.isfinite(off) else math.inf if off else 0.0
