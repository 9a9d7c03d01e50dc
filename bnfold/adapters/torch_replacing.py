"""Which submodules are nothing but an affine, so that removing it is putting Identity, or their activation, there."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from bnfold import ops
from bnfold.adapters import torch_parts
from bnfold.adapters.torch_names import Paths, path_of, stack_of
from bnfold.adapters.torch_reading import Reading
from bnfold.graph import Graph, Node

_ARITHMETIC = (ops.BatchNorm, ops.Binary, ops.Unary, ops.Identity)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A submodule whose own code is one affine. children: the names of those that run after it, in order.

    unit: what the node shares with its counterparts in the module's other calls.
    """

    path: str
    children: tuple[str, ...]
    unit: str


def replacements(reading: Reading, module: nn.Module) -> dict[str, Replacement]:
    """Find the replaceable submodules: by each node of their own code, what is put in their place.

    A submodule's own code has to be one chain of arithmetic from its only input to its first child or its output, and
    its children activations.
    All its calls have to be alike, and nobody else may read its parameters or watch it.
    """
    paths = Paths(module)
    bodies: dict[str, dict[str, list[Node]]] = {}
    for node in reading.graph.nodes:
        source = reading.sources[node.name]
        keys = list(source.meta.get("nn_module_stack") or {})
        for key, path in zip(keys, map(paths.module, stack_of(source)), strict=True):
            bodies.setdefault(path, {}).setdefault(str(key), []).append(node)
    found: dict[str, Replacement] = {}
    below = _names_below(reading)
    for path, calls in bodies.items():
        part = torch_parts.find(module, path)
        if path and part is not None and not torch_parts.is_hooked(part):
            found.update(_replacement(reading, paths, path, list(calls.values()), below.get(path, ())))
    return found


def _names_below(reading: Reading) -> dict[str, list[str]]:
    """Give the tensors that lie in each submodule or deeper."""
    below: dict[str, list[str]] = {}
    for name in reading.tensors:
        path = name
        while path := path.rpartition(".")[0]:
            below.setdefault(path, []).append(name)
    return below


def _replacement(
    reading: Reading, paths: Paths, path: str, calls: list[list[Node]], names: Sequence[str]
) -> dict[str, Replacement]:
    owns, orders = [], []
    for body in calls:
        own = [node for node in body if paths.module(path_of(reading.sources[node.name])) == path]
        rest = [node for node in body if node not in own]
        order = _children(reading, path, rest)
        if order is None or not _is_chain(reading.graph, own, rest) or _holds_layers(reading, rest):
            return {}
        owns.append(own)
        orders.append(order)
    shapes = {tuple(type(node.op) for node in own) for own in owns}
    if len(shapes) != 1 or len(set(orders)) != 1 or _is_read_elsewhere(reading, names, calls):
        return {}
    several = len(calls) > 1 or len(owns[0]) > 1
    return {
        node.name: Replacement(path, orders[0], f"{path}#{index}" if several else "")
        for own in owns
        for index, node in enumerate(own)
    }


def _children(reading: Reading, path: str, rest: list[Node]) -> tuple[str, ...] | None:
    """Name the children whose nodes follow, in order; None where one of them is called twice or they interleave."""
    names: list[str] = []
    depth = path.count(".") + 1
    for node in rest:
        inner = path_of(reading.sources[node.name])
        if not inner.startswith(f"{path}."):
            return None
        name = inner.split(".")[depth]
        if name in names[:-1]:
            return None
        if names[-1:] != [name]:
            names.append(name)
    return tuple(names)


def _holds_layers(reading: Reading, rest: list[Node]) -> bool:
    """Whether more than activations run after the affine: layers would go by other names in its place."""
    return any(name in reading.tensors for node in rest if not isinstance(node.op, ops.PRelu) for name in node.inputs)


def _is_chain(graph: Graph, own: list[Node], rest: list[Node]) -> bool:
    """Whether data goes through the own nodes one by one, then through the rest, and out at one place."""
    if not own or not all(isinstance(node.op, _ARITHMETIC) for node in own):
        return False
    last = ""
    for node in own:
        (x, *more) = [name for name in node.inputs if name in graph.values] or [""]
        if more or (last and x != last) or (last and not _only_readers(graph, last, [node])):
            return False
        last = node.output
    if not rest:
        return True
    if last in graph.outputs or not _only_readers(graph, last, rest):
        return False
    made = {name for node in rest for name in node.outputs}
    entering = {name for node in rest for name in node.inputs if name in graph.values and name not in made}
    return entering == {last} and len(list(_leaving(graph, rest))) == 1 and _one_way(graph, rest)


def _one_way(graph: Graph, rest: list[Node]) -> bool:
    """Whether each node reads what the one before it made: children that run one after the other."""
    pairs = itertools.pairwise(rest)
    return all(set(after.inputs) & set(graph.values) == {before.output} for before, after in pairs)


def _only_readers(graph: Graph, name: str, nodes: list[Node]) -> bool:
    return name not in graph.outputs and all(reader in nodes for reader in graph.readers.get(name, ()))


def _leaving(graph: Graph, nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        for name in node.outputs:
            if name in graph.outputs or any(reader not in nodes for reader in graph.readers.get(name, ())):
                yield name


def _is_read_elsewhere(reading: Reading, names: Sequence[str], calls: list[list[Node]]) -> bool:
    """Whether code outside reads the parameters, `names`, that would go with the submodule."""
    inside = {node.name for body in calls for node in body}
    readers = reading.graph.readers
    return any(reader.name not in inside for name in names for reader in readers.get(name, ()))
