"""Rounding into half precision so that the errors of a row cancel.

With e = W^ - W' what the rounding of a row adds, m = E[x] and v = Var(x) of its input, an output channel is off by

    e . m + r                        on average, a shift: r is the rounding of the bias (divided by alpha), and W' times
                                     what rounding has left in x (`bnfold.balancing`),
    sum e W' v / sqrt(sum W'^2 v)    along itself: a gain,
    sqrt(sum e^2 v)                  in all, most of it noise.

Noise is averaged away further on (by the next layer's sum, by pooling), shift and gain are not. All weights begin as
the nearest numbers; then some of those next to a tie take their other neighbour, as long as that lowers

    PULL * (shift^2 + gain^2) + noise^2

Every number stays one of the two neighbours of the exact one, less than a unit in the last place away (faithful
rounding). Where a weight needs no rounding (only the bias changes, or signs do), some numbers move by one unit.
"""

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Floats
from bnfold.dtypes import numpy_dtype
from bnfold.graph import Constant
from bnfold.plan import Balance, ScaleWeight
from bnfold.relation import Contracted
from bnfold.rules.linear import scale_weight

HALF = frozenset({"float16", "bfloat16"})
ROWS = 1 << 17  # elements at a time: 1 MiB in float64
CANDIDATES = 32  # of each row, next to a tie; more where the row is longer
PULL = 64.0  # measured: from 16 to 1,000 networks come out alike


def nearest(numbers: Floats, dtype: str) -> Floats:
    """Round float64 once, to nearest even, and give the numbers back in float64. dtype: float16 or bfloat16."""
    with np.errstate(all="ignore"):
        if dtype == "float16":
            return numbers.astype(np.float16).astype(np.float64)
        return _to_odd(numbers).astype(numpy_dtype(dtype)).astype(np.float64)


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
    mean, variance = (one.reshape(groups, -1)[group[rows]] for one in (balance.mean, balance.variance))
    flat = np.ascontiguousarray(by_row(contracted, weight)).reshape(len(mean), -1)
    return _from_rows(contracted, _rows(flat, dtype, (mean, variance, residue[rows]), is_stored), weight.shape)


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


def _rows(exact: Floats, dtype: str, balance: tuple[Floats, Floats, Floats], is_stored: bool) -> Floats:
    """Round rows (out, K). balance: mean and variance (out, in), each for K / in numbers in a row; residue (out,)."""
    mean, variance, residue = balance
    result = np.empty_like(exact)
    step = max(1, ROWS // max(1, exact.shape[1]))
    width = exact.shape[1] // max(1, mean.shape[1])
    for start in range(0, len(exact), step):
        part = slice(start, start + step)
        of_mean, of_variance = (np.repeat(one[part], width, axis=1) for one in (mean, variance))
        result[part] = _balanced(exact[part], dtype, (of_mean, of_variance, residue[part]), is_stored)
    return result


def _balanced(exact: Floats, dtype: str, balance: tuple[Floats, Floats, Floats], is_stored: bool) -> Floats:
    """Round rows to the nearest, and turn some numbers to their other side. balance: (out, K) twice, and (out,)."""
    mean, variance, residue = balance
    near = nearest(exact, dtype)
    away = np.sign(exact - near)
    if is_stored:
        away = np.where(exact != 0, -np.sign(residue[:, None] * mean), 0.0)  # a zero may stand for what was pruned
    other = _beside(near, away, dtype)
    with np.errstate(all="ignore"):
        error, beyond = near - exact, other - exact
        size = np.sqrt((exact**2 * variance).sum(axis=1, keepdims=True))
        along = np.where(size > 0, exact * variance / size, 0.0)
        off = np.stack([(error * mean).sum(axis=1) + residue, (error * along).sum(axis=1)])
        free = np.isfinite(beyond) & (near != other)
        from_tie = np.where(free, np.abs(beyond) if is_stored else np.abs(beyond) / np.abs(error), np.inf)
    count = min(exact.shape[1], CANDIDATES + int(4 * np.sqrt(exact.shape[1])))  # errors add up like the root
    places = np.sort(np.argpartition(from_tie, count - 1, axis=1)[:, :count], axis=1)
    step, free, beyond, error, by_mean, along, weight = (
        np.take_along_axis(one, places, 1) for one in (other - near, free, beyond, error, mean, along, variance)
    )
    step, price = np.where(free, step, 0.0), np.where(free, (beyond**2 - error**2) * weight, np.inf)
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


def _beside(near: Floats, away: Floats, dtype: str) -> Floats:
    """Give the dtype's next number above (away > 0) or below (away < 0), or the number itself (0)."""
    kind = numpy_dtype(dtype).type
    with np.errstate(all="ignore"):
        stored = near.astype(kind)
        beside = np.nextafter(stored, np.where(away > 0, np.inf, -np.inf).astype(kind)).astype(np.float64)
    return np.where(away == 0, near, beside)
