"""What an affine computes, from the definition of BatchNorm, for the audit."""

import numpy as np

from bnfold import ops
from bnfold.affine import Chains, Floats
from bnfold.auditing.frames import Seen, Term, UntoldError, ratios, refuse_unlike, seen
from bnfold.graph import Graph, Node
from bnfold.record import record

TINY = 1e-300  # in place of a size of 0


def axis_of(node: Node) -> int:
    """Give the axis along which its constants lie."""
    return node.op.axis if isinstance(node.op, ops.Affine) else 1


def parameters(node: Node, graph: Graph) -> tuple[Floats, Floats, Floats, Floats]:
    """Give gamma, beta, running_mean and running_var of a BatchNorm."""
    mean, variance = (graph.constants[name].load() for name in node.inputs[3:5])
    gamma, beta = node.inputs[1:3]
    return (
        graph.constants[gamma].load() if gamma else np.ones_like(mean),
        graph.constants[beta].load() if beta else np.zeros_like(mean),
        mean,
        variance,
    )


@record(eq=False)
class Line:
    """y = slope * x + shift, channel by channel.

    size: of the shift's largest term; beta and mean * slope may cancel, and leave their rounding.
    """

    slope: Floats
    shift: Floats
    size: Floats


def line(node: Node, graph: Graph) -> Line:
    """gamma (x - mean) / sqrt(var + eps) + beta, taken at x = 0 and by its slope."""
    if isinstance(node.op, ops.Affine):
        slope, shift = (graph.constants[name].load() for name in node.inputs[1:3])
        return Line(slope, shift, np.abs(shift))
    assert isinstance(node.op, ops.BatchNorm)
    return line_of(*parameters(node, graph), node.op.eps)


def line_of(gamma: Floats, beta: Floats, mean: Floats, variance: Floats, eps: Floats | float) -> Line:
    """Give what a BatchNorm computes."""
    slope = gamma / np.sqrt(variance + eps)
    moved = slope * mean
    shift = beta - moved
    return Line(slope, shift, np.maximum(np.abs(shift), np.abs(moved)))


def identity_error(affine: Line, x: Seen, y: Seen) -> Floats:
    """Say how far s a_x = a_y and s d_x + t = d_y are from the truth in any element, relative to their terms: (C,).

    Left out are elements in which the new tensor says nothing of the old. Raises UntoldError where the scales along
    another axis aren't the same before and behind, or frames are of other sizes.
    """
    refuse_unlike(x.elsewhere, y.elsewhere)
    y = y.alive()
    wrong: Floats = np.abs(affine.slope * x.scale - y.scale) / np.abs(y.scale)
    for left, size in ratios((*x.times(affine.slope), Term(affine.shift, {}, affine.size), *y.negative()), y):
        wrong = np.maximum(wrong, (np.abs(left) / np.maximum(size, TINY)).max(0, initial=0.0))
    return wrong


def around(node: Node, frames: Chains, channels: int) -> tuple[Seen, Seen]:
    """Look at the frames before and behind an affine from its channels; every other axis passes."""
    axis, before, behind = axis_of(node), frames.get(node.inputs[0], ()), frames.get(node.output, ())
    passes = {frame.axis: frame.axis for frame in before + behind if frame.axis != axis}
    return seen(before, axis, channels, passes), seen(behind, axis, channels, passes)


@record(eq=False)
class Gone:
    """An affine that is removed, with the frames before and behind it, seen from an axis."""

    axis: int
    line: Line
    x: Seen
    y: Seen


def gone(node: Node, graph: Graph, frames: Chains) -> Gone:
    """Look at an affine that is removed from its channels; at one of one number, from any axis that frames lie along.

    Raises UntoldError where the scales along other axes aren't the same before and behind.
    """
    own = line(node, graph)
    found = [Gone(axis_of(node), own, *around(node, frames, len(own.slope)))]
    if np.ptp(own.slope) == 0 and np.ptp(own.shift) == 0:
        chains = (*frames.get(node.inputs[0], ()), *frames.get(node.output, ()))
        found += [_along(own, frame.axis, frame.channels, node, frames) for frame in chains]
    alike = (one for one in found if _is_alike(one))
    return next(alike, found[0])


def _along(own: Line, axis: int, channels: int, node: Node, frames: Chains) -> Gone:
    slope, shift, size = (np.broadcast_to(numbers[:1], channels) for numbers in (own.slope, own.shift, own.size))
    before, behind = (frames.get(name, ()) for name in (node.inputs[0], node.output))
    passes = {frame.axis: frame.axis for frame in (*before, *behind) if frame.axis != axis}
    sides = (seen(chain, axis, channels, passes) for chain in (before, behind))
    return Gone(axis, Line(slope, shift, size), *sides)


def _is_alike(one: Gone) -> bool:
    try:
        refuse_unlike(one.x.elsewhere, one.y.elsewhere)
    except UntoldError:
        return False
    return True
