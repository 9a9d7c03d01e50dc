"""Rounding into half precision so that the errors of a row cancel.

With e = W^ - W' what the rounding of a row adds, m = E[x] and v = Var(x) of its input, an output channel is off by

    e . m + r                        on average, a shift: r is the rounding of the bias (divided by alpha), and W' times
                                     what rounding has left in x on average (`bnfold.balancing`),
    sum e W' v / sqrt(sum W'^2 v)    along itself: a gain,
    sqrt(sum e^2 v)                  in all, most of it noise.

Noise is averaged away further on (by the next layer's sum, by pooling), shift and gain are not. All weights begin as
the nearest numbers; then some of those next to a tie take their other neighbour, as long as that lowers

    PULL * (shift^2 + gain^2) + noise^2

Every number stays one of the two neighbours of the exact one, less than a unit in the last place away (faithful
rounding). What is off in x in proportion to x, a gain g (the rounding of a kept BatchNorm's scale leaves it), needs no
search: W' (1 - g) is what is rounded, to one of the neighbours of W'. Where a weight needs no rounding (only the bias
changes, or signs do), some numbers move by one unit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Floats
from bnfold.dtypes import numpy_dtype
from bnfold.graph import Constant
from bnfold.plan import Balance, ScaleWeight
from bnfold.relation import Contracted
from bnfold.rules.linear import scale_weight

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # what rounding to the nearest costs at most, relative
HALF = frozenset(UNIT)
ROWS = 1 << 17  # elements at a time: 1 MiB in float64
CANDIDATES = 32  # of each row, next to a tie; more where the row is longer
PULL = 64.0  # measured: from 16 to 1,000 networks come out alike


def nearest(numbers: Floats, dtype: str) -> Floats:
    """Round float64 once, to nearest even, and give the numbers back in float64. dtype: float16 or bfloat16."""
    return _stored(numbers, dtype).astype(np.float64)


def _stored(numbers: Floats, dtype: str) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return (numbers if dtype == "float16" else _to_odd(numbers)).astype(numpy_dtype(dtype))


def _to_odd(numbers: Floats) -> NDArray[np.float32]:
    """Cut to float32 and keep a sticky last bit, so that a second rounding comes to what one would have.

    Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums".
    """
    near = np.ascontiguousarray(numbers, np.float64).astype(np.float32)
    exact = near.astype(np.float64)
    bits = near.view(np.uint32) - (np.abs(exact) > np.abs(numbers)).astype(np.uint32)
    bits |= ((exact != numbers) & np.isfinite(numbers)).astype(np.uint32)
    return bits.view(np.float32)


def faithful(
    contracted: Contracted,
    weight: Floats,
    dtype: str,
    balance: Balance,
    rows: slice = slice(None),
    *,
    is_stored: bool = False,
) -> Floats:
    """Round a scaled weight in its own layout; gives float64.

    weight: exact; dtype: float16 or bfloat16. rows: which of the output channels `weight` holds, where these are on its
    axis 0; else it holds all. is_stored: these are numbers of the dtype, which may move by one unit.
    """
    groups, residue = contracted.groups, balance.residue
    group = np.arange(len(residue)) // (len(residue) // groups)
    mean, variance, gain = (
        one.reshape(groups, -1)[group[rows]] for one in (balance.mean, balance.variance, balance.gain)
    )
    flat = np.ascontiguousarray(by_row(contracted, weight)).reshape(len(mean), -1)
    known = Balance(mean, variance, gain, residue[rows])
    return _from_rows(contracted, _rows(flat, dtype, known, is_stored), weight.shape)


def scaled(contracted: Contracted, weight: Constant, edit: ScaleWeight) -> Floats:
    """Give what an edit makes of a weight, in float64: exact, or rounded already where the edit has a balance."""
    exact = scale_weight(contracted, weight.load(), edit.out_factor, edit.in_factor)
    if edit.balance is None or weight.dtype not in HALF:
        return exact
    return faithful(contracted, exact, weight.dtype, edit.balance, is_stored=is_exact(edit.out_factor, edit.in_factor))


def is_exact(*factors: Floats) -> bool:
    """Whether the factors are powers of two, and their negatives: a number times these needs no rounding."""
    return all(bool(np.all(np.abs(np.frexp(factor)[0]) == 0.5)) for factor in factors)


def by_row(contracted: Contracted, weight: Floats) -> Floats:
    """Give the weight as (out, in of one group, *kernel)."""
    moved = np.moveaxis(weight, (contracted.out_axis, contracted.in_axis), (0, 1))
    if contracted.groups == 1 or contracted.in_axis != 0:
        return moved
    outputs, inputs = moved.shape[:2]  # of one group, and of all: those of a group follow each other
    split = moved.reshape(outputs, contracted.groups, inputs // contracted.groups, *moved.shape[2:])
    return np.swapaxes(split, 0, 1).reshape(outputs * contracted.groups, -1, *moved.shape[2:])


def _from_rows(contracted: Contracted, rows: Floats, shape: tuple[int, ...]) -> Floats:
    """Undo `by_row`."""
    order = [contracted.out_axis, contracted.in_axis]
    order += [axis for axis in range(len(shape)) if axis not in order]
    if contracted.groups > 1 and contracted.in_axis == 0:
        inputs, outputs = shape[:2]
        split = rows.reshape(contracted.groups, outputs, inputs // contracted.groups, *shape[2:])
        moved = np.swapaxes(split, 0, 1).reshape(outputs, inputs, *shape[2:])
    else:
        moved = rows.reshape([shape[axis] for axis in order])
    result: Floats = np.moveaxis(moved, (0, 1), (contracted.out_axis, contracted.in_axis))
    return result


def _rows(exact: Floats, dtype: str, balance: Balance, is_stored: bool) -> Floats:
    """Round rows (out, K). balance: what is (in,) elsewhere is (out, in) here, each for K / in numbers in a row."""
    result = np.empty_like(exact)
    step = max(1, ROWS // max(1, exact.shape[1]))
    width = exact.shape[1] // max(1, balance.mean.shape[1])
    for start in range(0, len(exact), step):
        part = slice(start, start + step)
        mean, variance, gain = (
            np.repeat(one[part], width, axis=1) for one in (balance.mean, balance.variance, balance.gain)
        )
        repeated = Balance(mean, variance, gain, balance.residue[part])
        result[part] = _balanced(exact[part], dtype, repeated, is_stored)
    return result


def _balanced(exact: Floats, dtype: str, balance: Balance, is_stored: bool) -> Floats:
    """Round rows to the nearest, and turn some numbers to their other side. balance: (out, K), and (out,)."""
    mean, variance, residue = balance.mean, balance.variance, balance.residue
    stored = _stored(exact, dtype)
    near = stored.astype(np.float64)
    away = exact - near
    if is_stored:
        away = np.where(exact != 0, -residue[:, None] * mean, 0.0)  # a zero may stand for what was pruned
    other, goal = _beside(stored, away), exact
    if balance.gain.any():
        goal = exact * (1 - balance.gain)
        if not is_stored:
            near, other = np.where(np.abs(near - goal) <= np.abs(other - goal), (near, other), (other, near))
    with np.errstate(all="ignore"):
        error, beyond = near - goal, other - goal
        along = exact * variance
        size = np.sqrt((exact * along).sum(axis=1, keepdims=True))
        along *= np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
        off = np.stack([(error * mean).sum(axis=1) + residue, (error * along).sum(axis=1)])
        from_tie = np.abs(np.where(away == 0, np.inf, beyond) if is_stored else beyond / error)  # NaN comes last
    count = min(exact.shape[1], CANDIDATES + int(4 * np.sqrt(exact.shape[1])))  # errors add up like the root
    places = np.sort(np.argpartition(from_tie, count - 1, axis=1)[:, :count], axis=1)
    away, beyond, error, by_mean, along, weight = (
        np.take_along_axis(one, places, 1) for one in (away, beyond, error, mean, along, variance)
    )
    free = (away != 0) & np.isfinite(beyond)
    with np.errstate(all="ignore"):
        step = np.where(free, beyond - error, 0.0)
        price = np.where(free, (beyond**2 - error**2) * weight, np.inf)
    turned = _turned(off, np.stack([step * by_mean, step * along]), price)
    rows, columns = np.nonzero(turned)
    near[rows, places[rows, columns]] = other[rows, places[rows, columns]]
    return near


def _turned(off: Floats, gains: Floats, price: Floats) -> NDArray[np.bool_]:
    """Pick, in all rows at once, what lowers PULL * |off|^2 + the prices most, one at a time until nothing does.

    off: (2, out), shift and gain; gains: (2, out, candidates), what each adds to them; price: (out, candidates).
    """
    turned = np.zeros(price.shape, bool)
    rows = np.nonzero(np.isfinite(off).all(axis=0))[0]
    off, gains, price = off[:, rows], gains[:, rows], price[rows]
    alone = PULL * np.square(gains).sum(axis=0) + price  # what each costs where nothing is off
    while len(rows):
        change = alone + 2 * PULL * (off[0, :, None] * gains[0] + off[1, :, None] * gains[1])
        best = np.argmin(change, axis=1)
        better = change[np.arange(len(rows)), best] < 0
        if not better.all():
            rows, best, off, gains, alone = rows[better], best[better], off[:, better], gains[:, better], alone[better]
        each = np.arange(len(rows))
        turned[rows, best] = True
        off += gains[:, each, best]
        alone[each, best] = np.inf
    return turned


def _beside(stored: NDArray[Any], away: Floats) -> Floats:
    """Give the next number above (away > 0) or below (away < 0): numpy.nextafter, by the bits, which are in order."""
    bits = stored.view(np.uint16)
    outward = (away < 0) == (bits >> 15)
    beside = np.where(
        bits << 1, bits + np.where(outward, 1, -1).astype(np.uint16), 1 | (away < 0).astype(np.uint16) << 15
    )
    return beside.view(stored.dtype).astype(np.float64)
