"""Carries out a plan on the Graph itself: the simplest adapter, and what the others can be compared with."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import field, replace

import numpy as np

from bnfold.affine import Floats
from bnfold.dtypes import numpy_dtype
from bnfold.graph import Constant, Graph, Node
from bnfold.merging import fused, fused_after
from bnfold.ops import Bilinear, ChannelClip, Clip, Conv, ConvTranspose, Einsum, Gemm, Identity, Linear, MatMul, Pad
from bnfold.plan import Edit, Merge, Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants
from bnfold.record import record
from bnfold.relation import Site
from bnfold.rounding import scaled
from bnfold.rules.linear import contraction

BIAS = 2  # the operand of every linear operator that takes one


def written(graph: Graph, plan: Plan, *, is_exact: bool = False) -> Graph:
    """Give the folded graph, with the same inputs and outputs.

    What changes gets a constant of its own, rounded once into the dtype of the old one (of the node's first tensor
    where there was none). is_exact: nothing is rounded, and a scaled weight is computed whenever it is loaded.
    Raises ValueError for an edit that the node can't take, as a bias of a pooling.
    """
    draft = _Draft(graph, {node.name: node for node in graph.nodes}, dict(graph.constants), is_exact)
    for edit in plan.edits if is_exact else plan.own:
        draft.apply(edit)
    for merge in () if is_exact else plan.merges:
        draft.put(merge, *fused_after(graph, plan, merge))
    return _closed(draft)


@record(eq=False, frozen=False)
class _Draft:
    """The graph while it changes."""

    graph: Graph
    nodes: dict[str, Node]
    constants: dict[str, Constant]
    is_exact: bool
    removed: set[str] = field(default_factory=set)

    def apply(self, edit: Edit) -> None:
        """Carry out one edit."""
        node = self.nodes[edit.node]
        match edit:
            case ScaleWeight():
                self._scale_weight(node, edit)
            case SetBias(_, bias):
                self._set_bias(node, bias)
            case SetConstants(_, constants):
                for index, numbers in constants.items():
                    self._set_operand(node.name, index, numbers)
            case SetBounds(_, lo, hi):
                self._set_bounds(node, lo, hi)
            case ReplaceByClip(_, axis, lo, hi):
                self.nodes[node.name] = replace(node, op=ChannelClip(axis), inputs=node.inputs[:1], limits={})
                self._set_operand(node.name, 1, lo)
                self._set_operand(node.name, 2, hi)
            case Remove():
                self.removed.add(node.name)
            case Merge():
                self.put(edit, *fused(_closed(self), edit))

    def _scale_weight(self, node: Node, edit: ScaleWeight) -> None:
        found = contraction(Site(node, replace(self.graph, constants=self.constants)))
        if found is None:
            raise ValueError(f"{node.name}: no linear operator with a constant weight, so there is none to scale")
        old, index = self.constants[found.weight], node.inputs.index(found.weight)
        if self.is_exact:
            exact = replace(edit, balance=None)
            self._put(node.name, index, replace(old, load=lambda: scaled(found, old, exact), rows=None))
        else:
            self._set_operand(node.name, index, scaled(found, old, edit))

    def _set_bias(self, node: Node, bias: Floats) -> None:
        if isinstance(node.op, Gemm) and node.op.beta != 1:
            node = replace(node, op=replace(node.op, beta=1.0))
            self.nodes[node.name] = node
        elif not isinstance(node.op, (Conv, ConvTranspose, Linear, Gemm, MatMul, Einsum, Bilinear)):
            raise ValueError(f"{node.name}: {type(node.op).__name__} takes no bias")
        self._set_operand(node.name, BIAS, bias)

    def put(self, edit: Merge, weight: Floats, bias: Floats) -> None:
        """Let a Conv stand where the Sum did."""
        output = self.nodes[edit.after[-1] if edit.after else edit.node].output
        self.nodes[edit.node] = Node(edit.node, edit.op, (edit.x,), (output,))
        for name in edit.nodes:
            if name != edit.node:
                del self.nodes[name]
        dtype = self.graph.values[output].dtype
        for index, numbers in ((1, weight), (2, bias)):
            name = _fresh(f"{edit.node}.{index}", {*self.constants, *self.graph.values})
            self.constants[name] = self._constant(name, numbers, dtype)
            self.nodes[edit.node] = replace(self.nodes[edit.node], inputs=(*self.nodes[edit.node].inputs, name))

    def _set_bounds(self, node: Node, lo: float | None, hi: float | None) -> None:
        match node.op:
            case Clip():
                self.nodes[node.name] = replace(node, op=Clip(lo, hi))
            case Pad():
                self.nodes[node.name] = replace(node, op=replace(node.op, value=0.0 if lo is None else lo))
            case _:
                raise ValueError(f"{node.name}: {type(node.op).__name__} has no bounds")

    def _set_operand(self, name: str, index: int, numbers: Floats) -> None:
        node = self.nodes[name]
        old = node.inputs[index] if index < len(node.inputs) else ""
        dtype = self.constants[old].dtype if old else self.graph.values[node.output].dtype
        self._put(name, index, self._constant("", numbers, dtype))

    def _put(self, name: str, index: int, constant: Constant) -> None:
        """Let an operand of a node be a constant of its own."""
        node = self.nodes[name]
        inputs = [*node.inputs, *[""] * (index + 1 - len(node.inputs))]
        inputs[index] = _fresh(f"{name}.{index}", {*self.constants, *self.graph.values})
        self.constants[inputs[index]] = replace(constant, name=inputs[index])
        self.nodes[name] = replace(node, inputs=tuple(inputs))

    def _constant(self, name: str, numbers: Floats, dtype: str) -> Constant:
        if self.is_exact:
            return Constant(name, numbers.shape, dtype, lambda: numbers)
        return Constant(name, numbers.shape, dtype, _stored(numbers, dtype))


def _stored(numbers: Floats, dtype: str) -> Callable[[], Floats]:
    rounded = np.asarray(numbers, np.float64).astype(numpy_dtype(dtype)).astype(np.float64)
    return lambda: rounded


def _closed(draft: _Draft) -> Graph:
    """Join what stood around the removed nodes."""
    names, copies = joined(draft.graph, draft.removed)
    kept = [_renamed(node, names) for node in draft.nodes.values() if node.name not in draft.removed]
    return _pruned(draft.graph, (*kept, *copies), draft.constants)


def joined(graph: Graph, removed: Collection[str]) -> tuple[dict[str, str], list[Node]]:
    """Give the new names of values where nodes are gone, and the copies that outputs of the graph need.

    An output of the graph keeps its name, and what was its producer's input takes that; an input, or another output,
    has a name of its own to keep, so that the output becomes a copy of it.
    """
    names: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in removed:
            names[node.output] = names.get(node.inputs[0], node.inputs[0])
    copies = []
    for name in graph.outputs:
        origin = names.get(name, name)
        if origin == name:
            continue
        if origin in graph.inputs or origin in graph.outputs:
            copies.append(Node(name, Identity(), (origin,), (name,)))
        else:
            names = {key: name if value == origin else value for key, value in names.items() if key != name}
            names[origin] = name
    return names, copies


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    inputs = tuple(names.get(name, name) for name in node.inputs)
    return replace(node, inputs=inputs, outputs=tuple(names.get(name, name) for name in node.outputs))


def _pruned(graph: Graph, nodes: tuple[Node, ...], constants: Mapping[str, Constant]) -> Graph:
    """Leave out the values and constants that no node names any more."""
    used = {name for node in nodes for name in node.inputs + node.outputs} | {*graph.inputs, *graph.outputs}
    values = {name: value for name, value in graph.values.items() if name in used}
    return Graph(
        graph.inputs, graph.outputs, nodes, values, {name: constants[name] for name in constants if name in used}
    )


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    return name
