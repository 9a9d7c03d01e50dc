"""In which order a solution's reasons are told."""

from collections.abc import Collection

from bnfold.graph import Graph, Node
from bnfold.plan import Reason
from bnfold.why import Why


def nearest_first(reasons: Collection[Reason], node: Node, graph: Graph) -> tuple[Reason, ...]:
    """Sort by the distance from an affine in the graph's order; a sum is told only where nothing else speaks."""
    place = {other.name: index for index, other in enumerate(graph.nodes)}
    here = place[node.name]
    if any(reason.why not in (Why.SUM, Why.RIVAL) for reason in reasons):
        reasons = [reason for reason in reasons if reason.why is not Why.SUM]
    return tuple(sorted(reasons, key=lambda reason: abs(place.get(reason.node, -1) - here)))
