"""A fold's plan as the map between the values of the two models."""

from collections.abc import Collection, Mapping

from bnfold.checking.frames import Correspondence, Frame
from bnfold.graph import Graph
from bnfold.plan import Plan, Remove


def correspondence_of(plan: Plan, graph: Graph, candidate_values: Collection[str]) -> Correspondence:
    """Say which value of the folded model stands for each of `graph`, and in which frame.

    graph: the model before, as folding saw it. candidate_values: names in the folded model. A node that was taken out
    makes one value of its input and its output, which bears either's name. Left out are values that the fold merged
    away, those that changed along several axes, and those of which a gamma of 0 lets nobody see a channel.
    """
    heads = _aliases(plan, graph)
    kept: dict[str, str] = {}
    for name in graph.values:
        if name in candidate_values:
            kept[heads.get(name, name)] = name
    found: dict[str, Frame] = {}
    for name in graph.values:
        partner = kept.get(heads.get(name, name))
        frames = plan.frames.get(name, ())
        if partner is None or len(frames) > 1 or not all(frame.scale.all() for frame in frames):
            continue
        (frame,) = frames or (None,)
        found[name] = Frame(partner) if frame is None else Frame(partner, frame.axis, frame.scale, frame.shift)
    return found


def _aliases(plan: Plan, graph: Graph) -> Mapping[str, str]:
    """Give the first value of each chain of removed nodes, by the names of the values behind it."""
    heads: dict[str, str] = {}
    removed = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
    for node in graph.nodes:  # in topological order, so that a chain's head is known before its end
        if node.name in removed and node.outputs:
            heads[node.outputs[0]] = heads.get(node.inputs[0], node.inputs[0])
    return heads
