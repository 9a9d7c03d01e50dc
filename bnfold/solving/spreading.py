"""Shifts that an operator without a bias hands on: W (x' + d) = W x' + W d, where what is behind takes W d up.

The rows of the shifts leave both ends of a linear operator free, since its bias makes up for the difference. Where a
bias would be an operator of its own (an Einsum), or can't be had (a product in the code of a forward), shift_y has to
be W shift_x, which is asked for once shift_x is known.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bnfold.affine import Affine, Floats
from bnfold.graph import Graph
from bnfold.plan import Reason
from bnfold.relation import Contracted, Tie
from bnfold.rules.linear import is_rounding
from bnfold.rules.weights import channels_of, constant_times_shift
from bnfold.solving.axes import lacks_bias
from bnfold.why import Why

TRIES = 4  # operators that hand shifts on alone: each costs a solution
Ties = Mapping[str, tuple[Tie, ...]]  # by node


def handed_on(graph: Graph, ties: Ties, frames: Mapping[str, Affine]) -> dict[str, tuple[Contracted, Floats]]:
    """Give W shift_x, (out,), by node, of every operator that lacks a bias and has a shift at one of its ends."""
    found = {}
    for node, node_ties in ties.items():
        for tie in node_ties:
            if isinstance(tie, Contracted) and lacks_bias(graph, node, tie):
                before, after = (_shift(frames, *end) for end in _ends(tie))
                if before is not None:
                    found[node] = tie, tie.alpha * constant_times_shift(tie, graph.constants[tie.weight], before)
                elif after is not None:
                    found[node] = tie, np.zeros(channels_of(tie, graph.constants[tie.weight].shape)[1])
    return found


def biased(spread: Mapping[str, tuple[Contracted, Floats]], frames: Mapping[str, Affine]) -> frozenset[str]:
    """Name those that need a bias all the same: what they hand on isn't the shift of their output."""
    found = set()
    for node, (tie, shift) in spread.items():
        after = _shift(frames, tie.target, tie.target_axis)
        if not is_rounding(shift - (0.0 if after is None else after), shift).all():
            found.add(node)
    return frozenset(found)


def handing_sets(ties: Ties, graph: Graph, reasons: Mapping[str, Sequence[Reason]]) -> list[frozenset[str]]:
    """Give sets of operators that can't be given a bias and could hand shifts on, where contradictions name such.

    All of them; then those that are named; then each of these alone.
    """
    without = {node.name for node in graph.nodes if node.limits.get("bias") is Why.NO_BIAS}
    every = {node for node in without if any(map(_is_bare, ties[node]))}
    named = {reason.node for rows in reasons.values() for reason in rows if reason.why is Why.NO_BIAS} & every
    alone = sorted(named)[:TRIES]
    sets = [every, named, *({node} for node in alone)] if named else []
    return list(dict.fromkeys(map(frozenset, sets)))


def _is_bare(tie: Tie) -> bool:
    return isinstance(tie, Contracted) and not tie.bias


def _ends(tie: Contracted) -> tuple[tuple[str, int], tuple[str, int]]:
    return (tie.source, tie.source_axis), (tie.target, tie.target_axis)


def _shift(frames: Mapping[str, Affine], name: str, axis: int) -> Floats | None:
    """Give the shift of a value along an axis; None where there is none."""
    frame = frames.get(name)
    return frame.shift if frame is not None and frame.axis == axis and frame.shift.any() else None
