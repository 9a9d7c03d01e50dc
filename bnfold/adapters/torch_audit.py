"""The certificate of what was written: every weight that changed, against its own float64 recomputation."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from torch import nn

from bnfold import ops
from bnfold.adapters import torch_parts
from bnfold.affine import Floats
from bnfold.auditing import Written, audit
from bnfold.errors import DifferentError
from bnfold.graph import Graph
from bnfold.plan import Plan


def loaded(graph: Graph, plan: Plan) -> Graph:
    """Give the graph with the numbers, as they are now, of all that the plan may change.

    A fold in place writes over the tensors that the graph's constants load.
    """
    edited = {edit.node for edit in plan.edits}
    names = {name for node in graph.nodes if node.name in edited for name in node.inputs if name in graph.constants}
    arrays = {name: graph.constants[name].load() for name in names}
    kept = {name: replace(graph.constants[name], load=partial(np.array, array)) for name, array in arrays.items()}
    return replace(graph, constants={**graph.constants, **kept})


def require_audited(graph: Graph, plan: Plan, written: Written) -> None:
    """Raise DifferentError for the first weight or bias that isn't the float64 one, rounded once.

    graph: raised, with the numbers from before. written: as `bnfold.auditing.audit` asks for it.
    """
    for row in audit(graph, plan, written):
        if not row.passed:
            raise DifferentError(f"{row.node}: the {row.part} that was written isn't what the fold means ({row})")


def written_in(graph: Graph, module: nn.Module, biased: Mapping[str, str]) -> Written:
    """Read the operands from a module. biased: the paths of biases that are new, by node."""

    def written(node: str, operand: int) -> Floats | None:
        found = graph.by_name[node]
        name = found.inputs[operand] if operand < len(found.inputs) else ""
        path = name or (biased.get(node, "") if operand == 2 else "")
        if not path:
            return None
        tensor = torch_parts.attribute(module, path)
        array: Floats = graph.constants[path].load() if tensor is None else tensor.detach().cpu().double().numpy()
        return found.op.beta * array if isinstance(found.op, ops.Gemm) and operand == 2 and name else array

    return written
