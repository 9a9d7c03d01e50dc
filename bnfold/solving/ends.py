"""Which tensors lie at nodes whose constants follow from frames: what it costs to move a frame there."""

from collections.abc import Iterator, Mapping

from bnfold.ops import Parameter
from bnfold.record import record
from bnfold.relation import Absorbed, Contracted, Mapped, Tie
from bnfold.solving.axes import bias_is_operator
from bnfold.solving.rows import Lowering

Ties = Mapping[str, tuple[Tie, ...]]  # by node


@record
class End:
    """A value before or behind a node whose constants follow from frames, and which tensor of the unknowns it is.

    takes_shift: the node's bias takes up shifts there. wants_operator: it has none, and would need one of its own.
    """

    node: str
    tensor: int
    takes_shift: bool = False
    wants_operator: bool = False


def linear_ends(lowering: Lowering, ties: Ties) -> Iterator[End]:
    """A linear node is rewritten for what moves at its ends."""
    tensor = lowering.unknowns.tensor
    for name, node_ties in ties.items():
        for tie in node_ties:
            if isinstance(tie, Contracted):
                if lowering.axes.get(tie.source) == tie.source_axis:
                    yield End(name, tensor[tie.source])
                if lowering.axes.get(tie.target) == tie.target_axis:
                    costs = bias_is_operator(lowering.graph, name, tie)
                    yield End(name, tensor[tie.target], not costs, costs)
            elif isinstance(tie, Absorbed) and lowering.axes.get(tie.value) == tie.axis:
                made = tie.value in lowering.graph.by_name[name].outputs
                yield End(name, tensor[tie.value], takes_shift=made)


def parameter_ends(lowering: Lowering) -> Iterator[End]:
    """A constant that is data takes up shifts, and is rewritten for them."""
    tensor = lowering.unknowns.tensor
    for node in lowering.graph.nodes:
        if isinstance(node.op, Parameter) and "constants" not in node.limits and node.output in lowering.axes:
            yield End(node.name, tensor[node.output], takes_shift=True)


def kept_ends(lowering: Lowering, ties: Ties, taken: frozenset[str]) -> Iterator[End]:
    """An affine that stays is rewritten for what moves beside it; one that only adds becomes more than an Add."""
    tensor = lowering.unknowns.tensor
    for name, node_ties in ties.items():
        for tie in node_ties:
            if isinstance(tie, Mapped) and name not in taken:
                for value in (tie.source, tie.target):
                    if lowering.axes.get(value) == tie.axis:
                        yield End(name, tensor[value])
