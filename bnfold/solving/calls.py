"""The affines that go together, as the calls of one module do, and the tensors that they stand between."""

from collections.abc import Sequence

from bnfold.candidates import Candidate
from bnfold.graph import Graph, Node
from bnfold.plan import Reason
from bnfold.solving.rows import Lowering
from bnfold.why import Why


def folds(lowering: Lowering, found: Sequence[Candidate], held: Sequence[Candidate]) -> list[list[Candidate]]:
    """Group the candidates that go together: the calls of one module."""
    by_unit: dict[str, list[Candidate]] = {}
    broken = set()
    for candidate in found:
        unit = candidate.node.unit or candidate.node.name
        if candidate.refusal or candidate in held or len(off_axis(lowering, candidate)) == 2:
            broken.add(unit)
        by_unit.setdefault(unit, []).append(candidate)
    return [fold for unit, fold in by_unit.items() if unit not in broken]


def off_axis(lowering: Lowering, candidate: Candidate) -> list[str]:
    """Give the ends of an affine whose frames vary along another axis than its own, or don't vary at all."""
    ends = (candidate.tie.source, candidate.tie.target)
    return [name for name in ends if lowering.axes.get(name) != candidate.tie.axis]


def units(graph: Graph) -> dict[str, list[Node]]:
    """Give the nodes of every module that is called more than once, by its name."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.unit:
            found.setdefault(node.unit, []).append(node)
    return {unit: calls for unit, calls in found.items() if len(calls) > 1}


def equate(lowering: Lowering, calls: Sequence[Node]) -> None:
    """Give the calls of one module the same frames, so that its constants follow in one way."""
    first, *others = calls
    axes, unknowns = lowering.axes, lowering.unknowns
    for other in others:
        cause = Reason(other.name, Why.REPEATED)
        for left, right in zip(_variables(lowering.graph, first), _variables(lowering.graph, other), strict=False):
            if left == right:
                continue
            alike = axes.get(left) == axes.get(right) is not None
            if alike and len(unknowns.of(left)) == len(unknowns.of(right)):
                lowering.equate(unknowns.of(left), unknowns.of(right), cause)
            else:
                lowering.pin([left, right], cause)


def _variables(graph: Graph, node: Node) -> list[str]:
    """Name the tensors of a node that are no constants, in order."""
    return [name for name in (*node.inputs, *node.outputs) if name in graph.values]
