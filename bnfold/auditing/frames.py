"""What the frames of a tensor say of each of its elements, from their definition, for the audit.

T = f1(f2(... T')), each frame along an axis of its own, put into each other, is T = a T' + d in every element:

    a = a1 a2 a3 ...        d = d1 + a1 d2 + a1 a2 d3 + ...

a, and each term of d, is a product of vectors, one along each axis. Seen from the channels' axis, it is a vector (C,)
by a number at each position along the others. So a law of one scale and one shift a channel is one of several frames
where it holds at every position; none is left out. A vector of one number is that number, along whatever axis.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Chain, Floats, every, some
from bnfold.graph import SLAB
from bnfold.record import record

Product: TypeAlias = Mapping[int, Floats]  # by axis: element [i, j, ...] is the product of theirs
NOTHING: Mapping[int, int] = {}
SAME = 1e-9  # relative: scales along an axis that passes by


class UntoldError(ValueError):
    """The frames say nothing definite of a node: an axis of theirs doesn't pass it, or what they say differs there."""


@record(eq=False)
class Term:
    """channels (C,) by a number at each position. size: (C,), the largest number that was added up in it."""

    channels: Floats
    elsewhere: Product
    size: Floats


@record(eq=False)
class Seen:
    """Frames from the channels' axis: T = scale * T' + the sum of the shifts, in every element.

    scale: (C,), by `elsewhere`. Axes elsewhere are those of the node's output.
    """

    scale: Floats
    elsewhere: Product
    shifts: tuple[Term, ...]

    @property
    def shift(self) -> Floats:
        """The shift of frames that lie along the channels alone, (C,)."""
        if any(term.elsewhere for term in self.shifts):
            raise UntoldError("a shift along another axis")
        return sum((term.channels for term in self.shifts), np.zeros(len(self.scale)))

    def at(self, axis: int, position: int) -> tuple[Floats, Floats]:
        """Give scale and shift at one position along the only axis elsewhere, (C,)."""
        where = {axis: np.array([position])}
        shift = np.zeros((1, len(self.scale)))
        for term in self.shifts:
            shift += _at(term.elsewhere, where) * term.channels
        return np.reshape(_at(self.elsewhere, where) * self.scale, -1), shift[0]

    def alive(self) -> "Seen":
        """Give the same with scale 1 in the channels where it is 0."""
        return self if every(self.scale) else replace(self, scale=np.where(self.scale == 0, 1.0, self.scale))

    def negative(self) -> Iterator[Term]:
        """Give the terms of -d."""
        return (Term(-term.channels, term.elsewhere, term.size) for term in self.shifts)

    def times(self, factor: Floats) -> Iterator[Term]:
        """Give the terms of factor * d. factor: (C,)."""
        for term in self.shifts:
            yield Term(factor * term.channels, term.elsewhere, np.abs(factor) * term.size)


def seen(chain: Chain, axis: int, channels: int, passes: Mapping[int, int] = NOTHING) -> Seen:
    """Look at frames from an axis. passes: the other axes that a node lets pass, and which they are of its output.

    Raises UntoldError where a frame lies along any other.
    """
    scale, shifts = _expanded(chain)
    terms = []
    for product in shifts:
        numbers, elsewhere = _parted(product, axis, channels, passes)
        terms.append(Term(numbers, elsewhere, np.abs(numbers)))
    return Seen(*_parted(scale, axis, channels, passes), tuple(terms))


def _expanded(chain: Chain) -> tuple[Product, list[Product]]:
    """Give a, and the terms of d."""
    scale: dict[int, Floats] = {}
    shifts: list[Product] = []
    for frame in chain:
        before = scale.get(frame.axis)
        if some(frame.shift):
            shifts.append({**scale, frame.axis: frame.shift if before is None else before * frame.shift})
        scale[frame.axis] = frame.scale if before is None else before * frame.scale
    return scale, shifts


def _parted(product: Product, axis: int, channels: int, passes: Mapping[int, int]) -> tuple[Floats, Product]:
    """Part what lies along the channels from the rest. One number for a whole axis is the channels' just as well."""
    own = product.get(axis)
    if own is None:
        own = np.ones(channels)
    elif len(own) != channels:
        raise UntoldError(f"a frame of {len(own)} channels where there are {channels}")
    elsewhere: dict[int, Floats] = {}
    for other, numbers in product.items():
        if other == axis:
            continue
        if numbers[0] != 0 and np.ptp(numbers) == 0:
            own = own * numbers[0]
        elif other in passes:
            elsewhere[passes[other]] = numbers
        else:
            raise UntoldError(f"a frame along axis {other}, which doesn't pass")
    return own, elsewhere


def refuse_unlike(x: Product, y: Product) -> None:
    """Raise UntoldError where the scales along an axis that passes by aren't the same before and behind the node."""
    for axis in {*x, *y} if x or y else ():
        one, other = (product.get(axis, np.ones(1)) for product in (x, y))
        if len({len(one), len(other)} - {1}) > 1 or np.any(np.abs(one - other) > SAME * np.abs(other)):
            raise UntoldError(f"scales along axis {axis} that aren't the same before and behind")


def ratios(terms: Iterable[Term], scale: Seen) -> Iterator[tuple[Floats, Floats]]:
    """Give (sum of the terms) / scale and the size of its largest term, both (P, C), for all P positions in blocks.

    Left out are positions where the scale is 0: there the new tensor says nothing of the old.
    """
    terms = list(terms)
    products = [scale.elsewhere, *(term.elsewhere for term in terms)]
    if terms and not any(products):  # nearly always: one position
        total, size = terms[0].channels, terms[0].size
        for term in terms[1:]:
            total, size = total + term.channels, np.maximum(size, term.size)
        yield (total / scale.scale)[None], (size / np.abs(scale.scale))[None]
        return
    for where in _positions(products, len(scale.scale)):
        if scale.elsewhere:
            alive = np.flatnonzero(_at(scale.elsewhere, where))
            where = {axis: places[alive] for axis, places in where.items()}
        total, size = np.zeros((2, len(next(iter(where.values()), (0,))), len(scale.scale)))
        for term in terms:
            numbers = _at(term.elsewhere, where)
            total += numbers * term.channels
            np.maximum(size, np.abs(numbers) * term.size, out=size)
        divisor = _at(scale.elsewhere, where) * scale.scale
        yield total / divisor, size / np.abs(divisor)


def _positions(products: Sequence[Product], channels: int) -> Iterator[Mapping[int, NDArray[np.intp]]]:
    """Number the positions along all axes elsewhere, row by row, in blocks of some `SLAB` elements."""
    if not any(products):
        yield {}
        return
    sizes: dict[int, int] = {}
    for product in products:
        for axis, numbers in product.items():
            if sizes.setdefault(axis, len(numbers)) != len(numbers):
                raise UntoldError(f"frames of {sizes[axis]} and {len(numbers)} channels along axis {axis}")
    axes = sorted(sizes)
    lengths = tuple(sizes[axis] for axis in axes)
    count, step = math.prod(lengths), max(1, SLAB // max(1, channels))
    for start in range(0, count, step):
        places = np.unravel_index(np.arange(start, min(start + step, count)), lengths)
        yield dict(zip(axes, places, strict=True))


def _at(product: Product, where: Mapping[int, NDArray[np.intp]]) -> Floats | float:
    """Give a product at P positions: (P, 1), or 1 where it is the same at all."""
    if not product:
        return 1.0
    first, *rest = (numbers[where[axis]] for axis, numbers in product.items())
    return math.prod(rest, start=first)[:, None]
