"""What the two models are run on for an audit of their weights."""

import numpy as np

from bnfold.checking.subject import Feed
from bnfold.checking.trial import Trial

_LARGE = 300_000  # numbers in a sample from which one item is enough
_MORE = 8


def small_sample(trial: Trial) -> Feed:
    """Give a typical item and a wide one, which shuts other ReLUs: they say as much of a weight as more of them."""
    return _sample(trial, 1)


def larger_sample(trial: Trial) -> Feed | None:
    """Give more of them, for what two do not show; None where that takes too long."""
    feed = _sample(trial, _MORE)
    return feed if sum(array.size for array in feed) <= _LARGE else None


def _sample(trial: Trial, items: int) -> Feed:
    assert trial.typical is not None
    feed = trial.typical.feed
    sides = (*trial.reference.inputs, *trial.candidate.inputs)
    if not all(spec.dims and isinstance(spec.dims[0], str) for spec in sides):
        return feed
    if sum(array[:2].size for array in feed) > _LARGE:
        return tuple(array[:1] for array in feed)
    wide = trial.wide.feed if trial.wide is not None else ()
    if len(wide) != len(feed) or any(a.shape[1:] != b.shape[1:] for a, b in zip(feed, wide, strict=True)):
        return tuple(array[: 2 * items] for array in feed)
    return tuple(np.concatenate([a[:items], b[:items]]) for a, b in zip(feed, wide, strict=True))
