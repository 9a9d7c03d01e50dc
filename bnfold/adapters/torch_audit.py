"""The certificate of what was written: every weight that changed, against its own float64 recomputation."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnfold import ops
from bnfold.adapters import torch_parts
from bnfold.adapters.torch_old_weights import OldWeights
from bnfold.auditing import Written, audit
from bnfold.errors import DifferentError
from bnfold.graph import Constant, Graph
from bnfold.plan import Plan


def kept(graph: Graph, plan: Plan, tensors: Mapping[str, Tensor], old: OldWeights) -> Graph:
    """Give the graph with the numbers, as they are now, of all that the plan may change.

    tensors: by constant, the module's tensor. old: keeps what these are before a fold in place writes to them; what is
    computed from weights is computed now.
    """
    edited = {edit.node for edit in plan.edits}
    names = {name for node in graph.nodes if node.name in edited for name in node.inputs if name in graph.constants}
    constants = {name: _kept(graph.constants[name], tensors.get(name), old) for name in names}
    return replace(graph, constants={**graph.constants, **constants})


def _kept(constant: Constant, tensor: Tensor | None, old: OldWeights) -> Constant:
    if tensor is not None:
        return old.constant(constant.name, tensor)
    return replace(constant, load=partial(np.array, constant.load()), rows=None)


def require_audited(graph: Graph, plan: Plan, written: Written) -> None:
    """Raise DifferentError for the first weight or bias that isn't the float64 one, rounded once.

    graph: raised, with the numbers from before. written: as `bnfold.auditing.audit` asks for it.
    """
    for row in audit(graph, plan, written):
        if not row.passed:
            raise DifferentError(f"{row.node}: the {row.part} that was written isn't what the fold means ({row})")


def written_in(graph: Graph, module: nn.Module, biased: Mapping[str, str]) -> Written:
    """Read the operands from a module. biased: the paths of biases that are new, by node."""

    def written(node: str, operand: int) -> NDArray[Any] | None:
        found = graph.by_name[node]
        name = found.inputs[operand] if operand < len(found.inputs) else ""
        path = name or (biased.get(node, "") if operand == 2 else "")
        if not path:
            return None
        tensor = torch_parts.attribute(module, path)
        array = graph.constants[path].load() if tensor is None else as_numpy(tensor)
        scaled = isinstance(found.op, ops.Gemm) and operand == 2 and name
        return found.op.beta * np.asarray(array, np.float64) if scaled else array  # type: ignore[attr-defined]

    return written


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """Show a tensor's memory to NumPy, which has no bfloat16: that is widened."""
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
