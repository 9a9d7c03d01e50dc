"""From ties to the rows of three linear systems: log |scale|, the scale's sign over GF(2), and the shift.

Every channel of every framed tensor is an unknown of its own; a row says the same of n channels at once.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import TypeAlias

import numpy as np

from bnfold import affine
from bnfold.affine import Floats
from bnfold.graph import Graph, Node
from bnfold.plan import Reason
from bnfold.record import record
from bnfold.relation import Absorbed, Carried, Contracted, Mapped, Multiplied, Pinned, Summed, Tie
from bnfold.solving.axes import aligned, image_of
from bnfold.solving.unknowns import Unknowns
from bnfold.views import Indices, View
from bnfold.why import Why


class Kind(IntEnum):
    """The three systems."""

    SCALE = 0  # log |scale|
    SIGN = 1  # 1 where the scale is negative, modulo 2
    SHIFT = 2


Numbers: TypeAlias = float | Floats  # the same for all channels, or one for each
Terms: TypeAlias = tuple[tuple[Indices, Numbers], ...]


@record(eq=False)
class Row:
    """sum over terms of coefficient * unknown == right, for n channels at once.

    Each term has n unknowns. Rows that demand the same of scales, signs and shifts share their terms, so that these are
    looked at once. cause: what demands it; None for plain equality.
    """

    kind: Kind
    terms: Terms
    right: Numbers
    cause: Reason | None = None


class Lowering:
    """Turns ties into rows. Rows of what always holds come first; those of a fold are asked for by affine.

    bare: nodes that hand shifts on, so that the shifts at their ends aren't held where they have no bias.
    """

    def __init__(
        self,
        graph: Graph,
        axes: Mapping[str, int],
        ties: Mapping[str, Sequence[Tie]],
        bare: frozenset[str] = frozenset(),
    ) -> None:
        self.bare = bare
        self.graph = graph
        self.axes = axes
        self.unknowns = Unknowns(graph, axes, ties)
        self.rows: list[Row] = []

    def add(self, node: Node, tie: Tie) -> None:
        """Append the rows of a tie, as its node's limits allow."""
        match tie:
            case Mapped():
                pass
            case Contracted():
                self._contract(node, tie)
            case Carried():
                self._carry(node, tie)
            case Summed():
                self._sum(node, tie)
            case Pinned(values, why):
                self.pin(values, Reason(node.name, why))
            case Multiplied():
                self._multiply(node, tie)
            case Absorbed():
                self._absorb(node, tie)

    def pin(self, names: Sequence[str], cause: Reason) -> None:
        """Hold the frames of these values at the identity."""
        for name in names:
            if name in self.axes:
                terms = ((self.unknowns.of(name), 1.0),)
                for kind in Kind:
                    self._row(kind, terms, cause)

    def hold_scale(self, name: str, cause: Reason) -> None:
        """scale == 1."""
        if name in self.axes:
            terms = ((self.unknowns.of(name), 1.0),)
            self._row(Kind.SCALE, terms, cause)
            self._row(Kind.SIGN, terms, cause)

    def hold_shift(self, name: str, cause: Reason) -> None:
        """shift == 0."""
        if name in self.axes:
            self._row(Kind.SHIFT, ((self.unknowns.of(name), 1.0),), cause)

    def equate(self, left: Indices, right: Indices, cause: Reason | None = None) -> None:
        """Give two runs of unknowns equal frames."""
        self._row(Kind.SHIFT, self.equate_scales(left, right, cause), cause)

    def equate_scales(self, left: Indices, right: Indices, cause: Reason | None = None) -> Terms:
        """Give two runs of unknowns equal scales. Gives the terms of that."""
        terms = ((left, 1.0), (right, -1.0))
        self._row(Kind.SCALE, terms, cause)
        self._row(Kind.SIGN, terms, cause)
        return terms

    def equal_scales(self, source: str, target: str) -> list[Row]:
        """Give the rows of values, framed along one axis, whose scales are the same."""
        terms = ((self.unknowns.of(target), 1.0), (self.unknowns.of(source), -1.0))
        return [Row(kind, terms, 0.0) for kind in (Kind.SCALE, Kind.SIGN)]

    def folded(self, tie: Mapped, function: affine.Affine) -> list[Row]:
        """Give the rows of an affine that is folded: frame_y == affine after frame_x.

        An end whose frame varies along another axis is held at the identity, so it has no part in them.
        """
        ratio: list[tuple[Indices, Numbers]] = []
        moved: list[tuple[Indices, Numbers]] = []
        if self.axes.get(tie.target) == tie.axis:
            ratio.append((self.unknowns.of(tie.target), 1.0))
            moved.append(ratio[-1])
        if self.axes.get(tie.source) == tie.axis:
            ratio.append((self.unknowns.of(tie.source), -1.0))
            moved.append((self.unknowns.of(tie.source), -function.scale))
        scales = tuple(ratio)
        return [
            Row(Kind.SCALE, scales, np.log(np.abs(function.scale))),
            Row(Kind.SIGN, scales, _negative(function.scale)),
            Row(Kind.SHIFT, tuple(moved), function.shift),
        ]

    def _row(self, kind: Kind, terms: Terms, cause: Reason | None) -> None:
        self.rows.append(Row(kind, terms, 0.0, cause))

    def _carry(self, node: Node, tie: Carried) -> None:
        source, target = tie.source, tie.target
        if source not in self.axes and target not in self.axes:
            return
        if tie in self.unknowns.same:
            self._hold(node, tie, self.unknowns.of(source))
            return
        cause = Reason(node.name, tie.lost)
        pairs = self._pairs(tie.view, source, target)
        back = tie.view.inverse()
        if pairs is None and back is not None and (found := self._pairs(back, target, source)):
            pairs = found[::-1]
        if pairs is None:
            self.pin([source, target], cause)
            return
        x, y = pairs
        if tie.times != 1 or not np.array_equal(x, y):
            several = cause if len(x) > len(set(y.tolist())) else None  # channels of x must have one frame
            self.equate_scales(y, x, several)
            self._row(Kind.SHIFT, ((y, 1.0), (x, -tie.times)), several)
        self._hold(node, tie, x)

    def _hold(self, node: Node, tie: Carried, x: Indices) -> None:
        """Demand what a tie says of the unknowns of its source alone."""
        if tie.positive:
            self._row(Kind.SIGN, ((x, 1.0),), Reason(node.name, tie.positive))
        if tie.still:
            self._row(Kind.SHIFT, ((x, 1.0),), Reason(node.name, tie.still))
        if tie.uniform and len(x) > 1:
            self.equate(x[1:], np.repeat(x[:1], len(x) - 1), Reason(node.name, tie.uniform))

    def _pairs(self, view: View, source: str, target: str) -> tuple[Indices, Indices] | None:
        """Give the unknowns of the channels that the view says are the same; None where the axes part."""
        image = image_of(self.graph, view, source, self.axes[source]) if source in self.axes else None
        if image is None or self.axes.get(target) != image.axis:
            return None
        return self.unknowns.of(source)[image.source], self.unknowns.of(target)[image.target]

    def _operands(self, node: Node, names: Sequence[str], target: str) -> dict[str, tuple[Indices, Indices]] | None:
        """Pair the unknowns of each operand with the result's; an operand without channels is pinned and left out."""
        if target not in self.axes:
            self.pin(names, Reason(node.name, Why.BROADCAST))
            return None
        pairs = {}
        for name in names:
            image = self._aligned_image(name, target)
            if image is None:
                self.pin([name], Reason(node.name, Why.BROADCAST))
            else:
                pairs[name] = (self.unknowns.of(name), self.unknowns.of(target))
        return pairs

    def _aligned_image(self, name: str, target: str) -> object | None:
        if name not in self.axes:
            return None
        image = image_of(self.graph, aligned(self.graph, name, target), name, self.axes[name])
        return image if image and image.axis == self.axes[target] else None

    def _sum(self, node: Node, tie: Summed) -> None:
        pairs = self._operands(node, [name for name, _ in tie.terms], tie.target)
        if pairs is None:
            return
        if len(pairs) < len(tie.terms):
            self.hold_scale(tie.target, Reason(node.name, Why.BROADCAST))
        for x, y in pairs.values():
            self.equate_scales(y, x, Reason(node.name, Why.SUM))
        shifts = [(pairs[name][0], -coefficient) for name, coefficient in tie.terms if name in pairs]
        self._row(Kind.SHIFT, ((self.unknowns.of(tie.target), 1.0), *shifts), None)

    def _multiply(self, node: Node, tie: Multiplied) -> None:
        pairs = self._operands(node, tie.factors, tie.target)
        if pairs is None:
            return
        count = {name: float(tie.factors.count(name)) for name in pairs}
        ratio = ((self.unknowns.of(tie.target), 1.0), *((pairs[name][0], -count[name]) for name in pairs))
        self._row(Kind.SCALE, ratio, None)
        self._row(Kind.SIGN, ratio, None)
        for name in (*pairs, tie.target):
            self.hold_shift(name, Reason(node.name, Why.GATE))

    def _contract(self, node: Node, tie: Contracted) -> None:
        x_axis, y_axis = self.axes.get(tie.source), self.axes.get(tie.target)
        passed = (x_axis, y_axis) in tie.passes
        if passed and not tie.bias:
            self.equate_scales(self.unknowns.of(tie.target), self.unknowns.of(tie.source))
        if x_axis is not None:
            self._contract_end(node, tie.source, x_axis == tie.source_axis, passed and not tie.bias)
            if tie.still and x_axis == tie.source_axis:
                self.hold_shift(tie.source, Reason(node.name, tie.still))
            if "weight_in" in node.limits:
                self.hold_scale(tie.source, Reason(node.name, node.limits["weight_in"]))
        if y_axis is not None:
            self._contract_end(node, tie.target, y_axis == tie.target_axis, passed and not tie.bias)
            if "bias" in node.limits and tie.bias:
                self.hold_scale(tie.target, Reason(node.name, node.limits["bias"]))

    def _absorb(self, node: Node, tie: Absorbed) -> None:
        axis = self.axes.get(tie.value)
        if axis is None:
            return
        self._contract_end(node, tie.value, axis == tie.axis, passed=False)
        if tie.still and axis == tie.axis:
            self.hold_shift(tie.value, Reason(node.name, tie.still))
        if "bias" in node.limits and tie.bias:
            self.hold_scale(tie.value, Reason(node.name, node.limits["bias"]))

    def _contract_end(self, node: Node, name: str, free: bool, passed: bool) -> None:
        """Hold what the weight and the bias of a linear node can't take up."""
        if passed:
            self.hold_shift(name, Reason(node.name, Why.AXIS))
        elif not free:
            self.pin([name], Reason(node.name, Why.AXIS))
        else:
            if "weight" in node.limits:
                self.hold_scale(name, Reason(node.name, node.limits["weight"]))
            if "bias" in node.limits and node.name not in self.bare:
                self.hold_shift(name, Reason(node.name, node.limits["bias"]))


def _negative(scale: Floats) -> Numbers:
    """Give 1 where the scale is negative."""
    negative = scale < 0
    return negative.astype(np.float64) if affine.some(negative) else 0.0
