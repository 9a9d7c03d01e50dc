"""Layers whose channels an affine behind them multiplied by 0: their bias makes its shift come out there."""

from collections.abc import Callable

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing.dead import DeadChannels
from bnfold.auditing.frames import UntoldError
from bnfold.graph import Graph, Node
from bnfold.plan import Plan, SetConstants
from bnfold.relation import Contracted


def refuse_other_shift(
    graph: Graph, plan: Plan, node: Node, contracted: Contracted, scale: Floats, bias: Floats, allowed: float
) -> None:
    """Raise UntoldError where another shift than the affine's comes out of the channels whose frame has scale 0.

    scale: (C,), the frame's. bias: (C,) or (1,), what is added from now on. allowed: relative to the largest term.
    """
    dead = scale == 0
    ways = DeadChannels(graph, plan, _affines_of(graph, plan))
    end = ways.arrival(node, contracted.target_axis, np.broadcast_to(bias, scale.shape))
    if not end.reached[dead].all():
        raise UntoldError("channels of scale 0 that somebody sees")
    if not (np.abs(end.got - end.wanted) <= allowed * end.size)[dead].all():
        raise UntoldError("its bias isn't what comes out as the shift of an affine that is gone")


def _affines_of(graph: Graph, plan: Plan) -> Callable[[Node], tuple[Floats, Floats]]:
    numbers = {edit.node: edit.constants for edit in plan.edits if isinstance(edit, SetConstants)}

    def now(node: Node, index: int) -> Floats:
        new, old = numbers.get(node.name, {}).get(index), graph.constants.get(node.inputs[index])
        if new is None:
            new = np.full(1, np.nan) if old is None else old.load()  # NaN: it is computed, and nobody knows
        return new.reshape(-1)

    def affine(node: Node) -> tuple[Floats, Floats]:
        """Give scale and shift of an affine that stays, as they are from now on."""
        if isinstance(node.op, ops.Affine):
            return now(node, 1), now(node, 2)
        assert isinstance(node.op, ops.BatchNorm)
        slope = now(node, 1) / np.sqrt(now(node, 4) + node.op.eps)
        return slope, now(node, 2) - slope * now(node, 3)

    return affine
