"""ExportedProgram to Graph: ATen operators to ours, in-place updates to new values, constant chains to constants."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from bnfold import ops
from bnfold.adapters import (  # noqa: F401 - importing a family registers its readers
    torch_read_activation,
    torch_read_affine,
    torch_read_layout,
    torch_read_linear,
    torch_read_pooling,
)
from bnfold.adapters.torch_call import Call, Derived, Draft, Operand, bind, dim_of, draft, is_tensor, length, shape_of
from bnfold.adapters.torch_names import Names, Paths, path_of
from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Constant, Graph, Node, Value

_METADATA_ONLY = ("sym_size", "sym_numel", "sym_stride", "_assert", "_local_scalar", "is_same_size", "size")


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
    program: ExportedProgram
    sources: dict[str, fx.Node]
    tensors: dict[str, Tensor]
    chained: frozenset[str]
    operands: dict[str, tuple[Operand, ...]]


def read_program(program: ExportedProgram, module: nn.Module | None = None) -> Reading:
    """Read an exported program (static shapes). `module`: what it was exported from, to tell tied weights apart.

    Raises AliasedError where in-place updates and views can't be told apart.
    """
    return _Reading(program, module).run()


class _Reading:
    def __init__(self, program: ExportedProgram, module: nn.Module | None) -> None:
        self.program = program
        self.fx_nodes = list(program.graph.nodes)
        self.calls = [node for node in self.fx_nodes if node.op == "call_function"]
        self.names = Names([node for node in self.calls if node.target is not operator.getitem])
        self.paths = Paths(module)
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Constant] = {}
        self.nodes: list[Node] = []
        self.sources: dict[str, fx.Node] = {}
        self.tensors: dict[str, Tensor] = {}
        self.chained: set[str] = set()
        self.operands: dict[str, tuple[Operand, ...]] = {}
        self.known: dict[fx.Node, str] = {}  # placeholders of weights, by their path
        self.fixed: set[fx.Node] = set()  # nodes that are known before the run
        self.renamed: dict[fx.Node, fx.Node] = {}  # a tensor that was changed in place -> the node that did it
        self.stale: dict[fx.Node, str] = {}  # views of it, which must not be read any more

    def run(self) -> Reading:
        inputs = self._placeholders()
        for node in self.calls:
            self._call(node)
        graph = Graph(tuple(inputs), self._outputs(), tuple(self.nodes), self.values, self.constants)
        return Reading(graph, self.program, self.sources, self.tensors, frozenset(self.chained), self.operands)

    # Inputs and outputs.

    def _placeholders(self) -> list[str]:
        inputs = []
        mutated = self._mutated()
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        for node in (node for node in self.fx_nodes if node.op == "placeholder"):
            spec = specs[node.name]
            weight = spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
            if weight and node not in mutated:
                self.known[node] = str(spec.target)
                self.fixed.add(node)
            elif is_tensor(node):
                self.values[node.name] = _value(node.name, node.meta["val"])
                inputs.append(node.name)
        return inputs

    def _mutated(self) -> set[fx.Node]:
        """Placeholders whose tensors the program changes: their numbers aren't known before the run."""
        signature = self.program.graph_signature
        written = {spec.arg.name: spec.target for spec in signature.output_specs if spec.kind != OutputKind.USER_OUTPUT}
        by_target = {spec.target: spec.arg.name for spec in signature.input_specs if spec.target is not None}
        names = {by_target[target] for name, target in written.items() if by_target.get(target, name) != name}
        memories = {storage(node.args[0]) for node in self.calls if changes_first(node)} - {None}
        found = set()
        for node in self.fx_nodes:
            if node.op == "placeholder" and (node.name in names or storage(node) in memories):
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
        elif self._is_fixed(node):
            self.fixed.add(node)
        elif _is_metadata(node):
            return
        elif changes_first(node):
            self._in_place(node)
        else:
            self._emit(node, node.target)

    def _is_fixed(self, node: fx.Node) -> bool:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
            return False
        tensors = node.all_input_nodes
        return all(item in self.fixed for item in tensors) and not changes_first(node)

    def _getitem(self, node: fx.Node) -> None:
        source = node.args[0]
        if source in self.fixed:
            self.fixed.add(node)

    def _in_place(self, node: fx.Node) -> None:
        """Read `relu_(x)` as `x' = relu(x)`; whatever names x from here on means x'."""
        changed = node.args[0]
        assert isinstance(changed, fx.Node)
        functional = _functional(node.target)
        self._emit(node, functional)
        before = self.fx_nodes[: self.fx_nodes.index(node)]
        for other in (item for item in before if storage(item) == storage(changed)):
            if other is changed or _same_view(other, changed):
                self.renamed[other] = node
            else:
                self.stale[other] = node.name

    def _emit(self, node: fx.Node, target: Any) -> None:
        drafted = None
        if isinstance(target, torch._ops.OpOverload) and not _gives_nothing(node):
            drafted = draft(Call(node, bind(node, target).arguments), target)
        kind = str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))
        if drafted is None:
            operands = tuple(item for item in node.all_input_nodes if _any_tensor(item))
            drafted = Draft(ops.Unknown(kind), operands)
        name = self.names.of(node)
        inputs = tuple(self._operand(node, index, item) for index, item in enumerate(drafted.operands))
        results = self._results(node)
        if isinstance(drafted.op, ops.BatchNorm):
            results = results[:1]  # the others are what training saves
        self.nodes.append(Node(name, drafted.op, inputs, results, drafted.limits))
        self.sources[name] = node
        self.operands[name] = drafted.operands

    def _results(self, node: fx.Node) -> tuple[str, ...]:
        """Name what a node gives: by itself, or by the getitems that pick from it."""
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            self.values[node.name] = _value(node.name, value)
            return (node.name,)
        if not isinstance(value, (list, tuple)):
            return ()
        picked = {user.args[1]: user.name for user in node.users if user.target is operator.getitem}
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
            return self._scalar(f"{node.name}.{index}", item, node)
        if isinstance(item, Derived):
            return self._derived(self._operand(node, index, item.source), item.shape)
        assert isinstance(item, fx.Node)
        return self._name(item, path_of(node))

    def _name(self, item: fx.Node, owner: str = "") -> str:
        if item in self.stale:
            raise AliasedError(f"{item.name} is a view of what {self.stale[item]} changes in place")
        item = self.renamed.get(item, item)
        if item in self.known:
            return self._weight(item, self.paths.as_used_in(owner, self.known[item]))
        if item in self.fixed:
            return self._chain(item)
        if item.target is operator.getitem or item.name in self.values:
            return item.name if item.name in self.values else self._name(item.args[0], owner)  # type: ignore[arg-type]
        return self._several(item)

    def _several(self, item: fx.Node) -> str:
        """Name the first tensor of a node that gives several, where an unknown operator takes them all."""
        return next(name for name in (f"{item.name}.0", *(user.name for user in item.users)) if name in self.values)

    def _weight(self, node: fx.Node, path: str) -> str:
        if path not in self.constants:
            tensor = self._tensor_of(self.known[node])
            self.tensors[path] = tensor
            load = partial(_float64, tensor)
            self.constants[path] = Constant(path, tuple(tensor.shape), _dtype(tensor.dtype), load)
        return path

    def _tensor_of(self, path: str) -> Tensor:
        found = self.program.state_dict.get(path, self.program.constants.get(path))
        if not isinstance(found, Tensor):
            raise BnfoldError(f"{path}: the exported program has no tensor of this name")
        return found

    def _chain(self, node: fx.Node) -> str:
        if node.name not in self.constants:
            self._mark_chained(node)
            value = node.meta["val"]
            load = partial(self._evaluate, node)
            self.constants[node.name] = Constant(
                node.name, tuple(map(length, shape_of(node))), _dtype(value.dtype), load
            )
        return node.name

    def _mark_chained(self, node: fx.Node) -> None:
        pending = [node]
        while pending:
            item = pending.pop()
            if item in self.known:
                self.chained.update(self.paths.aliases(self.known[item]))
            pending.extend(item.all_input_nodes)

    def _scalar(self, name: str, number: float, node: fx.Node) -> str:
        dtype = _dtype(node.meta["val"].dtype)
        self.constants[name] = Constant(name, (), dtype, partial(np.asarray, number, np.float64))
        return name

    def _derived(self, source: str, shape: tuple[int, ...]) -> str:
        constant = self.constants.get(source)
        if constant is None or constant.shape == shape:
            return source
        name = f"{source}:{'x'.join(map(str, shape))}"
        self.constants[name] = Constant(name, shape, constant.dtype, lambda: constant.load().reshape(shape))
        return name

    def _evaluate(self, node: fx.Node) -> Floats:
        """Run a chain of constants in float64."""
        cache: dict[fx.Node, Any] = {}
        with torch.no_grad():
            return _float64(self._run_fixed(node, cache))

    def _run_fixed(self, node: fx.Node, cache: dict[fx.Node, Any]) -> Any:
        if node not in cache:
            if node in self.known:
                cache[node] = _wide(self._tensor_of(self.known[node]))
            else:
                arguments = fx.map_arg((node.args, dict(node.kwargs)), lambda item: self._run_fixed(item, cache))
                cache[node] = _computed(node, *arguments)
        return cache[node]


def _computed(node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call the operator; what only casts between floats is passed over, so that nothing is rounded on the way."""
    value = node.meta.get("val")
    first = args[0] if args else None
    if "to" in str(node.target) and isinstance(value, Tensor) and isinstance(first, Tensor):
        floats = value.is_floating_point() and first.is_floating_point()
        if floats and first.shape == value.shape:
            return first
    return _wide(node.target(*args, **kwargs))  # type: ignore[operator]


def _wide(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_wide(item) for item in value]
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.double() if value.is_floating_point() else value
    return value


def _float64(tensor: Tensor) -> Floats:
    """Copy to NumPy; the copy may be changed."""
    result: Floats = tensor.detach().to("cpu", torch.float64, copy=True).numpy()
    return result


def _value(name: str, tensor: Tensor) -> Value:
    return Value(name, tuple(map(dim_of, tensor.shape)), _dtype(tensor.dtype))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def storage(item: object) -> int | None:
    """Tell which memory a tensor shows; None for what isn't one tensor."""
    if not is_tensor(item):
        return None
    tensor: Tensor = item.meta["val"]  # type: ignore[attr-defined]
    memory: int = tensor.untyped_storage()._cdata
    return memory


def _same_view(left: fx.Node, right: fx.Node) -> bool:
    first, second = left.meta["val"], right.meta["val"]
    return bool(
        first.shape == second.shape
        and first.stride() == second.stride()
        and first.storage_offset() == second.storage_offset()
    )


def _any_tensor(item: fx.Node) -> bool:
    value = item.meta.get("val")
    return isinstance(value, (Tensor, list, tuple))


def _gives_nothing(node: fx.Node) -> bool:
    return node.meta.get("val") is None


def _is_metadata(node: fx.Node) -> bool:
    """Whether a node computes with shapes, or asserts one, and gives no tensor."""
    name = getattr(node.target, "__name__", str(node.target))
    numbers = isinstance(node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat, torch.SymBool))
    return numbers or (not _any_tensor(node) and name.startswith(_METADATA_ONLY))


def changes_first(node: fx.Node) -> bool:
    """Whether an operator writes to its first argument (detach_ changes no numbers)."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not node.args or target is torch.ops.aten.detach_.default:
        return False
    first = target._schema.arguments[0]
    return first.alias_info is not None and first.alias_info.is_write


def _functional(target: Any) -> Any:
    """Give the operator without the trailing underscore; the operator itself where there is none."""
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, target)
