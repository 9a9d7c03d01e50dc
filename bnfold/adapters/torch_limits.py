"""What of a graph can't be written back into the module it was read from, and why: limits, units and watchers."""

from collections import Counter
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace

from torch import nn

from bnfold import ops
from bnfold.adapters import torch_parts
from bnfold.adapters.torch_aliasing import Updates
from bnfold.adapters.torch_names import Paths, path_of, stack_of
from bnfold.adapters.torch_reading import Reading
from bnfold.adapters.torch_replacing import Replacement, replacements
from bnfold.graph import Graph, Node
from bnfold.raising.parameters import reads_as_data
from bnfold.why import Why

LINEAR = (ops.Conv, ops.ConvTranspose, ops.Linear, ops.Gemm, ops.MatMul, ops.Einsum, ops.Bilinear)
_NUMBERED = (ops.Clip, ops.Pad, ops.Relu, ops.PRelu)


@dataclass(frozen=True, eq=False)
class Writable:
    """The graph with its limits, and the submodules that can go, by the node that they stand for.

    relied: the paths of activations that go on working in place, because others read what they were given.
    """

    graph: Graph
    replacements: Mapping[str, Replacement]
    relied: Collection[str] = ()


def limited(
    reading: Reading, module: nn.Module, varying: Collection[int] = (), relied: Collection[str] = ()
) -> Writable:
    """Say what of `reading.graph` can't be rewritten in `module`.

    varying: the axes of its inputs of any length. relied: as in Writable.
    """
    limits = _Limits(reading, module, frozenset(varying), relied)
    nodes = [limits.of(node) for node in reading.graph.nodes]
    graph = replace(reading.graph, nodes=(*nodes, *limits.watchers()))
    return Writable(graph, limits.replacements, relied)


class _Limits:
    def __init__(self, reading: Reading, module: nn.Module, varying: Set[int], relied: Collection[str]) -> None:
        self.reading = reading
        self.varying = varying
        self.graph = reading.graph
        self.module = module
        self.paths = Paths(module)
        self.replacements = replacements(reading, module)
        self.updates = Updates(reading, module, relied)
        self.owner = {name: self.paths.module(path_of(source)) for name, source in reading.sources.items()}
        self.owned = Counter(self.owner[node.name] for node in self.graph.nodes)

    def path(self, node: Node) -> str:
        return self.owner[node.name]

    def of(self, node: Node) -> Node:
        found: dict[str, Why] = {}
        unit = ""
        if isinstance(node.op, LINEAR):
            found, unit = self._linear(node)
        elif isinstance(node.op, ops.Recurrent):
            found, unit = self._recurrent(node, node.op)
        elif isinstance(node.op, (ops.BatchNorm, ops.Binary, ops.Unary)):
            found, unit = self._affine(node)
        elif isinstance(node.op, _NUMBERED) and not self._is_lone_relu(node):
            found = {"constants": Why.CODE}
        elif isinstance(node.op, ops.Reduce) and self._has_open_length(node.op):
            found = {"length": Why.LENGTH}
        found |= self._operands(node)
        return replace(node, limits={**found, **node.limits}, unit=unit)

    def _operands(self, node: Node) -> dict[str, Why]:
        """Say why a constant that the node reads as data can't get other numbers."""
        for name in node.inputs:
            if name in self.graph.constants and reads_as_data(node, name):
                why = self._held_data(name)
                if why is not None:
                    return {"operand": why}
        return {}

    def _held_data(self, name: str) -> Why | None:
        if name not in self.reading.tensors:
            return Why.COMPUTED
        tensor = torch_parts.attribute(self.module, name)
        if tensor is None or not torch_parts.is_floating_strided(tensor):
            return Why.CODE
        alone = all(reads_as_data(reader, name) for reader in self.graph.readers[name])
        return None if alone and name not in self.reading.chained else Why.SHARED

    def _is_lone_relu(self, node: Node) -> bool:
        """Whether the node is all that an nn.ReLU does, so that another activation can take its place."""
        path = self.path(node)
        part = torch_parts.find(self.module, path)
        return type(part) is nn.ReLU and not torch_parts.is_hooked(part) and self.owned[path] == 1

    def _has_open_length(self, op: ops.Reduce) -> bool:
        """Whether other inputs may be longer along an axis; where any but the batch may, every axis can follow it."""
        return bool(self.varying - {0}) or not self.varying.isdisjoint(op.axes)

    # Linear layers.

    def _linear(self, node: Node) -> tuple[dict[str, Why], str]:
        weight = next((name for name in node.inputs[:2] if name in self.graph.constants), "")
        if not weight:
            return {}, ""
        part = torch_parts.find(self.module, self.path(node))
        found: dict[str, Why] = {}
        if part is not None and torch_parts.is_hooked(part):
            found = {"weight": Why.HOOKED, "bias": Why.HOOKED}
        why = self._held(node, weight, part)
        if why is not None:
            found["weight"] = why
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        why = self._held(node, bias, part) if bias else self._without_bias(node, part)
        if why is not None:
            found.setdefault("bias", why)
        return found, weight if len(self.graph.readers[weight]) > 1 else ""

    def _recurrent(self, node: Node, op: ops.Recurrent) -> tuple[dict[str, Why], str]:
        """Say which of the weights and biases that meet the input are held; a limit of one is one of all."""
        part = torch_parts.find(self.module, self.path(node))
        watched = part is not None and torch_parts.is_hooked(part)
        found = {"weight": Why.HOOKED, "bias": Why.HOOKED} if watched else {}
        for name, operands in zip(("weight", "bias"), zip(*op.parts, strict=True), strict=True):
            for own in (node.inputs[index] for index in operands if index < len(node.inputs) and node.inputs[index]):
                why = self._held(node, own, part)
                if why is not None:
                    found[name] = why
        weight = node.inputs[op.parts[0][0]]
        return found, weight if len(self.graph.readers[weight]) > 1 else ""

    def _held(self, node: Node, name: str, part: nn.Module | None) -> Why | None:
        """Say why a constant can't get other numbers; None where it can."""
        if name not in self.reading.tensors:
            return Why.PARAMETRIZED if part is not None and torch_parts.is_parametrized(part) else Why.COMPUTED
        tensor = torch_parts.attribute(self.module, name)
        if tensor is None or not torch_parts.is_floating_strided(tensor):
            return Why.CODE
        index = node.inputs.index(name)
        others = [other for other in self.graph.readers[name] if other is not node]
        alike = all(_same_use(node, other, index) for other in others)
        return None if alike and name not in self.reading.chained else Why.SHARED

    def _without_bias(self, node: Node, part: nn.Module | None) -> Why | None:
        return None if torch_parts.takes_bias(part, node.op) else Why.NO_BIAS

    # Affines.

    def _affine(self, node: Node) -> tuple[dict[str, Why], str]:
        found: dict[str, Why] = {}
        replacement = self.replacements.get(node.name)
        if replacement is None:
            found["remove"] = self._why_not_removed(node)
        elif self.updates.overwrite(self.reading.sources[node.name]):
            found["remove"] = Why.OVERWRITTEN
        if not self._can_be_rewritten(node):
            found["constants"] = Why.CODE
        return found, "" if replacement is None else replacement.unit

    def _why_not_removed(self, node: Node) -> Why:
        part = torch_parts.find(self.module, self.path(node))
        if part is not None and torch_parts.is_hooked(part):
            return Why.HOOKED
        return Why.SUBCLASS if isinstance(part, nn.modules.batchnorm._NormBase) else Why.CODE

    def _can_be_rewritten(self, node: Node) -> bool:
        """Whether a BatchNorm that stays has a gamma and a beta of its own."""
        if not isinstance(node.op, ops.BatchNorm):
            return False
        own = [name for name in node.inputs[1:3] if name in self.reading.tensors and name not in self.reading.chained]
        tensors = [torch_parts.attribute(self.module, name) for name in own]
        free = all(tensor is not None and torch_parts.is_floating_strided(tensor) for tensor in tensors)
        once = all(len(self.graph.readers[name]) == 1 for name in own)
        part = torch_parts.find(self.module, self.path(node))
        return len(own) == 2 and free and once and part is not None and not torch_parts.is_hooked(part)

    # Hooks.

    def watchers(self) -> list[Node]:
        """Give each hooked module a node that reads what its hooks see, so that these tensors stay as they are."""
        nodes = []
        for path in torch_parts.hooked(self.module):
            seen = self._seen_by(path)
            if seen:
                name = f"{path or type(self.module).__name__}:hook"
                nodes.append(Node(name, ops.Unknown("hook"), seen, (), {"frames": Why.HOOKED}))
        return nodes

    def _seen_by(self, path: str) -> tuple[str, ...]:
        inside = {node.name for node in self.graph.nodes if self._is_inside(node, path)}
        made = {name for node in self.graph.nodes if node.name in inside for name in node.outputs}
        read = [name for node in self.graph.nodes if node.name in inside for name in node.inputs]
        entering = [name for name in read if name in self.graph.values and name not in made]
        return tuple(dict.fromkeys([*entering, *(name for name in made if self._leaves(name, inside))]))

    def _is_inside(self, node: Node, path: str) -> bool:
        return path == "" or path in [self.paths.module(part) for part in stack_of(self.reading.sources[node.name])]

    def _leaves(self, name: str, inside: set[str]) -> bool:
        readers = self.graph.readers.get(name, ())
        return name in self.graph.outputs or not readers or any(node.name not in inside for node in readers)


def in_place_after(reading: Reading, module: nn.Module, removed: Collection[str]) -> tuple[str, ...]:
    """Name the activations that work in place on what a removed affine gave, where its input is not theirs alone.

    BatchNorm gives a tensor of its own, and Identity gives its input: relu(inplace=True) behind it would then change
    what others read.
    """
    graph, found = reading.graph, []
    for node in graph.nodes:
        path = path_of(reading.sources[node.name])
        part = torch_parts.find(module, path)
        if not reading.sources[node.name].name.rstrip("0123456789").endswith("_"):
            continue
        if part is None or getattr(part, "inplace", None) is not True or not node.inputs:
            continue
        if _is_shared_behind(graph, node.inputs[0], removed):
            found.append(path)
    return tuple(dict.fromkeys(found))


def _is_shared_behind(graph: Graph, name: str, removed: Collection[str]) -> bool:
    """Whether, on the way back through removed nodes and those that give their input, somebody else reads."""
    passed = False
    while name in graph.producer:
        node = graph.producer[name]
        if len(graph.readers.get(name, ())) > 1 and passed:
            return True
        if node.name in removed:
            passed = True
        elif not isinstance(node.op, (ops.Identity, ops.Reshape, ops.Transpose, ops.Take, ops.Select, ops.Split)):
            return False
        name = next(operand for operand in node.inputs if operand in graph.values)
    return passed


def _same_use(node: Node, other: Node, index: int) -> bool:
    """Whether another node is the same layer, called once more."""
    return type(other.op) is type(node.op) and _weights_of(other) == _weights_of(node) and index > 0


def _weights_of(node: Node) -> tuple[str, ...]:
    parts = node.op.parts if isinstance(node.op, ops.Recurrent) else ((1, 2),)
    return tuple(name for part in parts for index in part for name in node.inputs[index : index + 1])
