"""Channels of which nobody sees what they were: an affine that went multiplied them by 0.

Their frames have scale 0. The layer before gives one constant there, and no formula says which: what counts is that the
affine's shift comes out behind it. So the constant is followed there, through what was written.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing.affines import around, axis_of, line
from bnfold.auditing.frames import SAME, Term, UntoldError, ratios
from bnfold.graph import Graph, Node
from bnfold.plan import Plan, Remove, ReplaceByClip, SetBounds
from bnfold.record import record


@record(eq=False)
class Arrival:
    """What constant channels are where an affine that went multiplied them by 0; all (C,).

    reached: whether there is such an affine. got: what its output is now. wanted: what its shift is in the output's
    frame. size: the largest term on the way.
    """

    reached: NDArray[np.bool_]
    got: Floats
    wanted: Floats
    size: Floats


class DeadChannels:
    """written_affine(node): scale and shift of an affine that stayed, as they are written."""

    def __init__(self, graph: Graph, plan: Plan, written_affine: Callable[[Node], tuple[Floats, Floats]]) -> None:
        self.graph, self.plan, self.written_affine = graph, plan, written_affine
        self.removed = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
        self.bounds = {edit.node: edit for edit in plan.edits if isinstance(edit, ReplaceByClip | SetBounds)}

    def are_unseen(self, node: Node, axis: int, channels: NDArray[np.bool_]) -> bool:
        """Whether affines ahead multiply all these channels of the node's output, (C,) along the axis, by 0."""
        return not channels.any() or bool(np.all(self.arrival(node, axis, np.zeros(len(channels))).reached[channels]))

    def arrival(self, node: Node, axis: int, constant: Floats) -> Arrival:
        """Follow channels that the node's output holds constant, (C,), along the axis.

        Raises UntoldError where they end in a tensor with frames along other axes.
        """
        now, size = constant, np.abs(constant)
        reached = np.zeros(len(constant), np.bool_)
        got, wanted, largest = (np.zeros(len(constant)) for _ in range(3))
        for step in self._ahead(node):
            if step.name in self.removed:
                ends, shift, terms = self._end(step, axis, len(constant))
                ends &= ~reached
                got[ends], wanted[ends] = now[ends], shift[ends]
                size = np.maximum(size, terms)
                largest[ends] = size[ends]
                reached |= ends
                continue
            after = self._through(step, axis, now)
            if after is None or after.shape != now.shape:
                break
            now, size = after, np.maximum(size, np.abs(after))
        return Arrival(reached, got, wanted, largest)

    def _ahead(self, node: Node) -> Iterator[Node]:
        """Give the nodes behind, as long as each is the only one to read what comes."""
        while node.output not in self.graph.outputs and len(self.graph.readers.get(node.output, ())) == 1:
            (node,) = self.graph.readers[node.output]
            yield node

    def _end(self, affine: Node, axis: int, channels: int) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """Say where an affine that went ends the way, (t - d_y) / a_y of it, and the largest term of that."""
        own = line(affine, self.graph)
        nothing = np.zeros(channels)
        if axis_of(affine) != axis or len(own.slope) != channels:  # other channels
            return nothing != 0, nothing, nothing
        _, y = around(affine, self.plan.frames, channels)
        ends = (own.slope == 0) & (y.scale != 0)  # else one further ahead ends it
        a_y = np.where(y.scale != 0, y.scale, 1.0)
        if not ends.any():
            return ends, nothing, own.size / np.abs(a_y)
        wanted, sizes = nothing, nothing
        for number, (values, terms) in enumerate(ratios([Term(own.shift, {}, own.size), *y.negative()], y.alive())):
            if not number and len(values):
                wanted, sizes = values[0], terms[0]
            if (np.abs(values - wanted) > SAME * terms)[:, ends].any():
                raise UntoldError("a constant that isn't one behind frames along other axes")
        return ends, wanted, sizes

    def _through(self, node: Node, axis: int, constant: Floats) -> Floats | None:
        """Give what a node makes of channels that are constant; None where that isn't one constant a channel."""
        bounds = self.bounds.get(node.name)
        if isinstance(bounds, ReplaceByClip) and bounds.axis == axis:
            return np.minimum(np.maximum(constant, bounds.lo), bounds.hi)
        if bounds is not None:
            return None
        match node.op:
            case ops.MaxPool() | ops.AvgPool() if axis > 1:
                return None
            case ops.BatchNorm() | ops.Affine() if axis_of(node) == axis:
                scale, shift = self.written_affine(node)
                return scale * constant + shift
            case ops.Relu():
                return np.where(constant > 0, constant, 0.0)
            case ops.LeakyRelu(slope):
                return np.where(constant > 0, constant, slope * constant)
            case ops.Abs():
                return np.sign(constant) * constant
            case ops.PRelu():
                return np.where(constant >= 0, constant, np.nan)
            case ops.AvgPool(counts_padding=True):
                return np.where(constant == 0, constant, np.nan)
            case ops.Identity() | ops.MaxPool() | ops.AvgPool():
                return constant
            case _:
                return None
