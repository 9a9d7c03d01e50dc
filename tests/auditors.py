"""The audit of what the memory adapter writes."""

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing import AuditRow, Written, audit
from bnfold.graph import Graph
from bnfold.plan import Plan


def reader(graph: Graph) -> Written:
    """Read the operands of a folded graph."""

    def written(node: str, operand: int) -> Floats | None:
        found = graph.by_name[node]
        name = found.inputs[operand] if operand < len(found.inputs) else ""
        beta = found.op.beta if isinstance(found.op, ops.Gemm) and operand == 2 else 1.0
        return beta * graph.constants[name].load() if name else None

    return written


def failed(graph: Graph, plan: Plan, folded: Graph) -> list[AuditRow]:
    """Give what the audit finds wrong."""
    return [row for row in audit(graph, plan, reader(folded)) if not row.passed]
