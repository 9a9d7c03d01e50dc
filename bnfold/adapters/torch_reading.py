"""A captured forward to Graph: ATen operators to ours, in-place updates to new values, constant chains to constants."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bnfold import ops
from bnfold.adapters import (  # noqa: F401 - importing a family registers its readers
    torch_read_activation,
    torch_read_affine,
    torch_read_layout,
    torch_read_linear,
    torch_read_pooling,
    torch_read_recurrent,
)
from bnfold.adapters.torch_call import Derived, Draft, Operand, bind, dim_of, draft, is_tensor
from bnfold.adapters.torch_captured import Captured
from bnfold.adapters.torch_names import Names, Paths, path_of, value_name
from bnfold.adapters.torch_nodes import (
    any_tensor,
    changes_first,
    functional,
    gives_nothing,
    is_metadata,
    same_view,
    storage,
)
from bnfold.adapters.torch_read_constants import Constants, name_of
from bnfold.errors import BnfoldError
from bnfold.graph import Graph, Node, Value


class AliasedError(BnfoldError):
    """A tensor is changed in place while a view of it is still to be read; the graph must be functionalised first."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A graph and where its parts come from.

    sources: by graph node, the node of the exported graph. tensors: by constant that is a parameter, buffer or
    attribute of the module, the tensor. chained: those that other constants are computed from. operands: by graph node,
    what its inputs are in the exported graph.
    """

    graph: Graph
    captured: Captured
    sources: dict[str, fx.Node]
    tensors: dict[str, Tensor]
    chained: frozenset[str]
    operands: dict[str, tuple[Operand, ...]]


def read_captured(captured: Captured, module: nn.Module | None = None) -> Reading:
    """Read a captured forward. `module`: what it was captured from, to tell tied weights apart.

    Raises AliasedError where in-place updates and views can't be told apart.
    """
    return _Reading(captured, module).run()


class _Reading:
    def __init__(self, captured: Captured, module: nn.Module | None) -> None:
        self.captured = captured
        self.fx_nodes = list(captured.graph.nodes)
        self.calls = [node for node in self.fx_nodes if node.op == "call_function"]
        self.names = Names([node for node in self.calls if node.target is not operator.getitem])
        self.paths = Paths(module)
        self.weights = frozenset({*captured.tensors, *self.paths.of_tensors})
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.sources: dict[str, fx.Node] = {}
        self.operands: dict[str, tuple[Operand, ...]] = {}
        self.constants = Constants(captured.tensors, self.paths)
        self.over: dict[int | None, list[fx.Node]] = {}  # the nodes so far, by the memory that they show
        self.renamed: dict[fx.Node, fx.Node] = {}  # a tensor that was changed in place -> the node that did it
        self.stale: dict[fx.Node, str] = {}  # views of it, which must not be read any more

    def run(self) -> Reading:
        inputs = self._placeholders()
        for node in self.calls:
            self._call(node)
            self.over.setdefault(storage(node), []).append(node)
        constants = self.constants
        graph = Graph(tuple(inputs), self._outputs(), tuple(self.nodes), self.values, constants.found)
        chained = frozenset(constants.chained)
        return Reading(graph, self.captured, self.sources, constants.tensors, chained, self.operands)

    # Inputs and outputs.

    def _placeholders(self) -> list[str]:
        inputs = []
        mutated = self._mutated()
        for node in (node for node in self.fx_nodes if node.op == "placeholder"):
            self.over.setdefault(storage(node), []).append(node)
            path = self.captured.weights.get(node.name)
            if path is not None and node not in mutated:
                self.constants.add(node, path)
            elif is_tensor(node):
                name = value_name(node.name, self.weights)
                self.values[name] = _value(name, node.meta["val"])
                inputs.append(name)
        return inputs

    def _mutated(self) -> set[fx.Node]:
        """Placeholders whose tensors the program changes: their numbers aren't known before the run."""
        memories = {storage(node.args[0]) for node in self.calls if changes_first(node)} - {None}
        found = set()
        for node in self.fx_nodes:
            if node.op == "placeholder" and (node.name in self.captured.written or storage(node) in memories):
                found.add(node)
        return found

    def _outputs(self) -> tuple[str, ...]:
        (output,) = [node for node in self.fx_nodes if node.op == "output"]
        found = [self._name(item) for item in output.args[0] if is_tensor(item)]
        return tuple(dict.fromkeys(name for name in found if name in self.values))

    # Nodes.

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self._getitem(node)
        elif self.constants.takes(node) or is_metadata(node):
            return
        elif changes_first(node):
            self._in_place(node)
        else:
            self._emit(node, node.target)

    def _getitem(self, node: fx.Node) -> None:
        source = node.args[0]
        if source in self.constants.fixed:
            self.constants.fixed.add(node)

    def _in_place(self, node: fx.Node) -> None:
        """Read `relu_(x)` as `x' = relu(x)`; whatever names x from here on means x'."""
        changed = node.args[0]
        assert isinstance(changed, fx.Node)
        self._emit(node, functional(node.target))
        memory = storage(changed)
        for other in self.over[memory]:
            if other is changed or (memory is not None and same_view(other, changed)):
                self.renamed[other] = node
            elif is_tensor(other):
                self.stale[other] = node.name

    def _emit(self, node: fx.Node, target: Any) -> None:
        drafted = None
        if isinstance(target, torch._ops.OpOverload) and not gives_nothing(node):
            drafted = draft(bind(node, target, self.constants.numbers), target)
        kind = str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))
        if drafted is None:
            operands = tuple(item for item in node.all_input_nodes if any_tensor(item))
            drafted = Draft(ops.Unknown(kind), operands)
        name = self.names.of(node)
        inputs = tuple(self._operand(node, index, item) for index, item in enumerate(drafted.operands))
        results = self._results(node)
        if isinstance(drafted.op, ops.BatchNorm) and "remove" not in drafted.limits:
            results = results[:1]  # the others are what training saves
        self.nodes.append(Node(name, drafted.op, inputs, results, drafted.limits))
        self.sources[name] = node
        self.operands[name] = drafted.operands

    def _results(self, node: fx.Node) -> tuple[str, ...]:
        """Name what a node gives: by itself, or by the getitems that pick from it."""
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            name = value_name(node.name, self.weights)
            self.values[name] = _value(name, value)
            return (name,)
        if not isinstance(value, (list, tuple)):
            return ()
        getitems = [user for user in node.users if user.target is operator.getitem]
        picked = {user.args[1]: value_name(user.name, self.weights) for user in getitems}
        names = []
        for index, item in enumerate(value):
            if isinstance(item, Tensor):
                names.append(picked.get(index, f"{node.name}.{index}"))
                self.values[names[-1]] = _value(names[-1], item)
        return tuple(names)

    # Operands.

    def _operand(self, node: fx.Node, index: int, item: object) -> str:
        if item is None:
            return ""
        if isinstance(item, float):
            return self.constants.scalar(f"{node.name}.{index}", item, node)
        if isinstance(item, Derived):
            return self.constants.derived(self._operand(node, index, item.source), item.shape)
        assert isinstance(item, fx.Node)
        return self._name(item, path_of(node))

    def _name(self, item: fx.Node, owner: str = "") -> str:
        if item in self.stale:
            raise AliasedError(f"{item.name} is a view of what {self.stale[item]} changes in place")
        item = self.renamed.get(item, item)
        if item in self.constants.known:
            return self.constants.weight(item, self.paths.as_used_in(owner, self.constants.known[item]))
        if item in self.constants.fixed:
            return self.constants.chain(item)
        name = value_name(item.name, self.weights)
        if item.target is operator.getitem or name in self.values:
            return name if name in self.values else self._name(item.args[0], owner)  # type: ignore[arg-type]
        return self._several(item)

    def _several(self, item: fx.Node) -> str:
        """Name the first tensor of a node that gives several, where an unknown operator takes them all."""
        picked = (value_name(user.name, self.weights) for user in item.users)
        return next(name for name in (f"{item.name}.0", *picked) if name in self.values)


def _value(name: str, tensor: Tensor) -> Value:
    return Value(name, tuple(map(dim_of, tensor.shape)), name_of(tensor.dtype))
