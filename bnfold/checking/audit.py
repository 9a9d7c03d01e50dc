"""An audit of the weights where no plan is at hand: what no frame of any channel could have made of the reference's.

Every fold scales a linear layer's weight by its output channels and its input channels, W' = W a_in / a_out; whatever
the scales are, they leave each weight in a fixed proportion to the others of its row and column. So they are read off
the two tensors (as medians, which a few wrong weights do not move), and a weight that is out of proportion was not made
by a fold. Errors of a whole row are left to the outputs, which show them plainly.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from bnfold.checking.measures import Array, ulp
from bnfold.checking.result import AuditRow

ALLOWED = 8.0  # ULP: one for each of the weight, its row's and its column's scale, and a fold that was made in float32
_ROUNDS = 4


@dataclass(frozen=True)
class LinearLayer:
    """A linear operator with a constant `weight`, (out, in / groups, *kernel) in float64; `value` is its result."""

    name: str
    value: str
    weight: Array
    groups: int
    dtype: str


@dataclass(frozen=True)
class Suspect:
    """Weights of one output channel that are out of proportion."""

    reference: LinearLayer
    candidate: LinearLayer
    row: AuditRow


def audit_layers(
    reference: Sequence[LinearLayer], candidate: Sequence[LinearLayer]
) -> Iterator[tuple[AuditRow, Suspect]]:
    """Give the worst weight of each channel of each pair of layers that stand for one another."""
    for ours, theirs in pair_layers(reference, candidate):
        distance = disproportion(ours.weight, theirs.weight, theirs.groups)
        if distance is None:
            continue
        steps = distance / ulp(theirs.weight, theirs.dtype)
        if np.mean(steps > ALLOWED) > 0.5:  # merged with another layer, or computed otherwise: no relation to audit
            continue
        worst = steps.reshape(len(steps), -1).max(1)
        for channel, value in enumerate(worst):
            row = AuditRow(ours.name, channel, float(value), ALLOWED, "weight")
            yield row, Suspect(ours, theirs, row)


def pair_layers(
    reference: Sequence[LinearLayer], candidate: Sequence[LinearLayer]
) -> Iterator[tuple[LinearLayer, LinearLayer]]:
    """Pair layers of one shape in the order in which they run."""
    keys = [[(layer.weight.shape, layer.groups) for layer in side] for side in (reference, candidate)]
    for block in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_matching_blocks():
        yield from zip(
            reference[block.a : block.a + block.size], candidate[block.b : block.b + block.size], strict=True
        )


def disproportion(ours: Array, theirs: Array, groups: int) -> Array | None:
    """Give |theirs - rows * columns * ours| with the best scales of rows and columns; None where there are none.

    `ours`, `theirs`: (out, in / groups, *kernel). Each group has columns of its own.
    """
    if ours.size == 0 or not np.isfinite(ours).all():
        return None
    blocks = [array.reshape(groups, array.shape[0] // groups, array.shape[1], -1) for array in (ours, theirs)]
    with np.errstate(all="ignore"):
        ratio = np.where(blocks[0] != 0, blocks[1] / blocks[0], np.nan)
    if not np.isfinite(ratio).any():
        return None
    rows = np.ones((*ratio.shape[:2], 1, 1))
    columns = np.ones((ratio.shape[0], 1, ratio.shape[2], 1))
    for _ in range(_ROUNDS):
        rows = _median(ratio / columns, (2, 3))
        columns = _median(ratio / np.where(rows == 0, np.nan, rows), (1, 3))
    expected = np.where(np.isfinite(rows * columns), rows * columns, 0.0) * blocks[0]
    distance: Array = np.abs(blocks[1] - expected)
    return np.where(np.isnan(distance), np.inf, distance).reshape(theirs.shape)


def _median(values: Array, axes: tuple[int, int]) -> Array:
    """Median of the finite values; 0 where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of slices without a finite value
        middle = np.nanmedian(np.where(np.isfinite(values), values, np.nan), axis=axes, keepdims=True)
    return np.nan_to_num(middle, nan=0.0)
