"""What a weight makes of scales and shifts of its input, stretch by stretch."""

from collections.abc import Callable, Iterator

import numpy as np

from bnfold.affine import Floats
from bnfold.auditing.channels import Channels
from bnfold.auditing.frames import Product, Term
from bnfold.graph import SLAB, Constant


class Spread:
    """sum_i alpha * W[o, i] * d_x[i], by output channel, and the size of the largest term."""

    def __init__(self, linear: Channels, shift: Floats) -> None:
        self.linear, self.shift = linear, shift
        self.total, self.largest = np.zeros(linear.outputs), np.zeros(linear.outputs)

    def add(self, weight: Floats, rows: slice) -> None:
        """Take in some rows of the weight."""
        linear = self.linear
        terms = linear.alpha * weight * linear.of_input(self.shift, rows)
        others = tuple(axis for axis in range(weight.ndim) if axis not in (0, linear.out_axis))
        at = linear.of_output(np.arange(linear.outputs), rows)
        sums, maxima = terms.sum(others, keepdims=True), np.abs(terms).max(others, keepdims=True, initial=0.0)
        np.add.at(self.total, np.broadcast_to(at, sums.shape), sums)
        np.maximum.at(self.largest, np.broadcast_to(at, sums.shape), maxima)

    def term(self, elsewhere: Product) -> Term:
        """Give what it adds to the output, of a shift that stands there at positions."""
        return Term(self.total, elsewhere, self.largest)


def slabs(constant: Constant) -> Iterator[tuple[slice, Floats]]:
    """Give stretches of axis 0 that fit the processor's cache; a row at the least."""
    for rows, slab in constant.slabs():
        step = max(1, SLAB * len(slab) // max(1, slab.size))
        for start in range(0, len(slab), step):
            stop = min(start + step, len(slab))
            yield slice(rows.start + start, rows.start + stop), slab[start:stop]


def times(weight: Floats, along: Callable[[Floats, slice], Floats], factors: Floats, rows: slice) -> Floats:
    """Multiply rows of a weight by factors, one a channel, which `along` shapes to broadcast against them."""
    return weight if np.all(factors == 1) else weight * along(factors, rows)
