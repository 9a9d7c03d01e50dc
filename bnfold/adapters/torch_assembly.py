"""A tape to a captured forward: the graph that torch.export gives, of functions that are each exported once."""

import inspect
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_captured import Captured
from bnfold.adapters.torch_lowering import Lowered, kind_of, lowered
from bnfold.adapters.torch_nodes import storage
from bnfold.adapters.torch_tape import Call, Seen, Tape
from bnfold.adapters.torch_trace import named_tensors

_COUNT = re.compile(r"_\d+$")


def captured_from(tape: Tape, module: nn.Module, given: Arguments) -> Captured | None:
    """Give the forward that the tape holds as a graph of ATen operators.

    None where only torch.export can tell it: a function that isn't made of plain operators, or that gives something
    else there than it gave in the run; inputs of one name; a module that hangs in the tree twice, whose calls are named
    by how they were reached.
    """
    parts = [part for _, part in module.named_modules(remove_duplicate=False)]
    names = _input_names(module, given)
    if len(parts) != len(set(parts)) or names is None:
        return None
    functions = lowered(tape.calls)
    if functions is None:
        return None
    assembly = _Assembly()
    weights = assembly.weights(tape)
    for place, seen in tape.inputs.items():
        assembly.placeholder(names[place], seen)
    if not all(assembly.add(call, functions[kind_of(call)]) for call in tape.calls):
        return None
    graph = assembly.finished(tape)
    paths = set(weights.values())
    tensors = {path: item for path, item in named_tensors(module) if path in paths}
    return Captured(graph, weights, tensors)


def _input_names(module: nn.Module, given: Arguments) -> Sequence[str] | None:
    """Name the leaves of the arguments as torch.export does: by forward's parameters, and the way inside of these."""
    leaves, form = pytree.tree_flatten((given.args, dict(given.kwargs)))
    args, kwargs = pytree.tree_unflatten(list(range(len(leaves))), form)
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # a forward that tells nothing of its parameters
        return None
    names = [""] * len(leaves)
    for way, place in pytree.tree_flatten_with_path(dict(bound))[0]:
        names[place] = "_".join(re.sub(r"[^a-z0-9]", "_", _key(part).lower()) for part in way)
    return names if len(set(names)) == len(names) else None


def _key(part: Any) -> str:
    match part:
        case pytree.SequenceKey(idx=index):
            return str(index)
        case pytree.MappingKey(key=key):
            return str(key)
        case _:
            return str(getattr(part, "name", part))


class _Assembly:
    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}  # by number of a tensor: what stands for it
        self.storages: dict[int, torch.UntypedStorage] = {}  # by memory: one without numbers
        self.hidden = 0  # memories that the run doesn't show

    def weights(self, tape: Tape) -> dict[str, str]:
        """Make placeholders of the weights that are read; gives their paths by name."""
        read = {seen.number for call in tape.calls for seen in call.operands}
        read.update(seen.number for seen in tape.outputs)
        used = {path: seen for path, seen in tape.weights.items() if seen.number in read}
        return {self.placeholder(f"p_{re.sub(r'[^a-zA-Z0-9]', '_', path)}", seen): path for path, seen in used.items()}

    def placeholder(self, name: str, seen: Seen) -> str:
        """Add an input or a weight; gives its name."""
        node = self.graph.placeholder(name)
        node.name = name  # the graph would have `input` renamed, which is a function of Python's
        node.meta["val"] = self._value(seen)
        self.nodes[seen.number] = node
        return node.name

    def add(self, call: Call, function: Lowered) -> bool:
        """Add a call's operators; False where the function gave something else in the run than it gives there."""
        pairs = list(zip(function.operands, call.operands, strict=True))
        places = {storage(node): (seen.memory, seen.offset) for node, seen in pairs}
        if not _is_as_run(call, function, places):
            return False
        known = {node: self.nodes[seen.number] for node, seen in pairs}
        for node in function.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            new = self.graph.create_node("call_function", node.target, args, kwargs, name=_COUNT.sub("", node.name))
            new.meta["nn_module_stack"] = call.modules
            new.meta["val"] = pytree.tree_map(partial(self._shown, places=places), node.meta.get("val"))
            known[node] = new
        for node, seen in zip(function.results, call.results, strict=True):
            self.nodes[seen.number] = known[node]
            if node in function.nodes:
                known[node].meta["val"] = self._value(seen)
        return True

    def _shown(self, value: Any, places: dict[int | None, tuple[int, int]]) -> Any:
        if not isinstance(value, Tensor):
            return value
        key = value.untyped_storage()._cdata
        if key not in places:
            self.hidden -= 1
            places[key] = self.hidden, 0
        memory, offset = places[key]
        offset += int(value.storage_offset())
        return self._value(Seen(0, memory, tuple(value.shape), value.stride(), offset, value.dtype, value.device))

    def _value(self, seen: Seen) -> Tensor:
        """Give a tensor without numbers that shows the memory."""
        if seen.memory not in self.storages and seen.offset == 0:
            tensor = torch.empty_strided(seen.shape, seen.stride, dtype=seen.dtype, device="meta")
            self.storages[seen.memory] = tensor.untyped_storage()
            return tensor
        held = self.storages.setdefault(seen.memory, torch.empty(0, device="meta").untyped_storage())
        return torch.empty(0, dtype=seen.dtype, device="meta").set_(held, seen.offset, seen.shape, seen.stride)

    def finished(self, tape: Tape) -> fx.Graph:
        """Give the graph, without the detached tensors that nobody reads, which torch.export drops too."""
        self.graph.output(tuple(self.nodes[seen.number] for seen in tape.outputs))
        for node in reversed(self.graph.nodes):
            if node.target is torch.ops.aten.detach.default and not node.users:
                self.graph.erase_node(node)
        return self.graph


def _is_as_run(call: Call, function: Lowered, places: dict[int | None, tuple[int, int]]) -> bool:
    """Whether the results have the shapes and dtypes that they had in the run, and show the same memories.

    Shapes are compared where the function was lowered for operands of these very shapes.
    places: by storage of the operands, the memory and the offset in it; those of the results are added. A function of
    one operator may share otherwise: torch.export takes an idle dropout for a copy.
    """
    if len(function.results) != len(call.results):
        return False
    given = {memory for memory, _ in places.values()}
    pairs = zip(function.operands, call.operands, strict=True)
    alike = all(tuple(node.meta["val"].shape) == seen.shape for node, seen in pairs)
    for node, seen in zip(function.results, call.results, strict=True):
        value, key = node.meta["val"], storage(node)
        if (value.ndim, value.dtype) != (len(seen.shape), seen.dtype):
            return False
        if alike and tuple(value.shape) != seen.shape:
            return False
        if key not in places and seen.memory not in given:
            places[key] = seen.memory, 0
        if len(function.nodes) > 1 and places.get(key) != (seen.memory, seen.offset - value.storage_offset()):
            return False
    return True
