"""The graphs of an ONNX file, bodies of If, Loop and Scan among them, with a name of its own for every node and value.

Folding sees them as one Graph: a body's nodes come before the node that holds them, its inputs and outputs are held
like the model's, and what it captures from outside is read like any other value.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from bnfold.adapters.onnx_protos import AttributeProto, GraphProto, ModelProto, NodeProto
from bnfold.adapters.onnx_skeleton import (
    ATTRIBUTE,
    ATTRIBUTE_GRAPH,
    ATTRIBUTE_GRAPHS,
    GRAPH,
    NODE,
    Skeleton,
)
from bnfold.adapters.onnx_wire import Field
from bnfold.errors import BnfoldError
from bnfold.record import record

_GRAPHS = frozenset((AttributeProto.UNDEFINED, AttributeProto.GRAPH, AttributeProto.GRAPHS))


@record(eq=False, frozen=False)
class Scope:
    """One graph of the file.

    path: the fields around it in the file, from the model's graph to its own. names: a value's name in the file to its
    name in the Graph; the model's own keep theirs, a body's are NODE.ATTRIBUTE/NAME.
    """

    graph: GraphProto
    inferred: GraphProto
    path: tuple[Field, ...]
    prefix: str = ""
    parent: "Scope | None" = None
    names: dict[str, str] = field(default_factory=dict)
    nodes: list["FileNode"] = field(default_factory=list)

    def resolve(self, name: str) -> str | None:
        """Give the name in the Graph of a value that is visible here; None where there is none."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def qualified(self, name: str) -> str:
        """Give a name of this graph as the Graph has it."""
        return f"{self.prefix}/{name}" if self.prefix else name


@record(eq=False, frozen=False)
class FileNode:
    """A node of the file, under a unique name; inputs and outputs by their names in the Graph.

    kind: its operator, the type, with the domain where that isn't ONNX's own. attributes: by name, the first of each.
    """

    name: str
    scope: Scope
    index: int
    proto: NodeProto
    kind: str
    attributes: Mapping[str, AttributeProto]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    bodies: list[Scope] = field(default_factory=list)

    def attribute(self, name: str) -> AttributeProto | None:
        """Give an attribute; None where the node has none of that name."""
        return self.attributes.get(name)


@record(eq=False, frozen=False)
class Scopes:
    """Every graph and node of the file. nodes: in an order in which each comes after what it reads."""

    main: Scope
    scopes: list[Scope]
    nodes: list[FileNode]


def scopes(file: Skeleton, inferred: ModelProto) -> Scopes:
    """Name everything. Raises BnfoldError where the graph is no directed acyclic one, or a name means two things."""
    return _Naming(file).run(inferred.graph)


class _Naming:
    def __init__(self, file: Skeleton) -> None:
        self.file = file
        self.scopes: list[Scope] = []
        self.nodes: list[FileNode] = []
        self.node_names: set[str] = set()

    def run(self, inferred: GraphProto) -> Scopes:
        graph = self.file.layout(0, self.file.source.size)[GRAPH][0]
        main = Scope(self.file.proto.graph, inferred, (graph,))
        self._scope(main)
        return Scopes(main, self.scopes, self.nodes)

    def _scope(self, scope: Scope) -> None:
        self.scopes.append(scope)
        graph = scope.graph
        given = {item.name for item in graph.input}
        given |= {item.name for item in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
        scope.names = {name: scope.qualified(name) for name in given if name}
        scope.nodes = [_file_node(scope, index, proto) for index, proto in enumerate(graph.node)]
        made: dict[str, int] = {}
        for node in scope.nodes:
            for name in node.proto.output:
                if name in made or name in scope.names:
                    raise BnfoldError(f"{self.file.source.name}: value {name!r} is computed twice, or also given")
                if name:
                    made[name] = node.index
        bodies = {node.index: list(self._bodies(node, scope)) for node in scope.nodes if _may_hold_graphs(node)}
        scope.names |= {name: scope.qualified(name) for name in made}
        for index in self._order(graph, made, {k: [body[0] for body in v] for k, v in bodies.items()}):
            self._node(scope.nodes[index], bodies.get(index, ()))

    def _node(self, node: FileNode, bodies: Sequence[tuple[GraphProto, GraphProto, tuple[Field, ...], str]]) -> None:
        scope, proto = node.scope, node.proto
        node.name = self._unique(scope.qualified(proto.name or next(filter(None, proto.output), proto.op_type)))
        node.inputs = tuple([scope.names.get(name) or self._resolved(name, node) for name in proto.input])
        node.outputs = tuple([scope.names[name] if name else "" for name in proto.output])
        for graph, inferred, path, attribute in bodies:
            body = Scope(graph, inferred, path, f"{node.name}.{attribute}", scope)
            node.bodies.append(body)
            self._scope(body)
        self.nodes.append(node)

    def _unique(self, name: str) -> str:
        number, found = 2, name
        while found in self.node_names:
            found, number = f"{name}#{number}", number + 1
        self.node_names.add(found)
        return found

    def _resolved(self, name: str, node: FileNode) -> str:
        if not name:
            return ""
        found = node.scope.resolve(name)
        if found is None:
            raise BnfoldError(f"{self.file.source.name}: node {node.name!r} reads {name!r}, which nothing computes")
        return found

    def _bodies(self, node: FileNode, scope: Scope) -> Iterator[tuple[GraphProto, GraphProto, tuple[Field, ...], str]]:
        """Find the graphs among a node's attributes, each with its place in the file and its attribute's name."""
        index, proto = node.index, node.proto
        around = scope.path[-1]
        place = self.file.layout(around.body, around.end)[NODE][index]
        fields = self.file.layout(place.body, place.end)[ATTRIBUTE]
        twin = scope.inferred.node[index] if index < len(scope.inferred.node) else proto
        for item, same, at in zip(proto.attribute, twin.attribute, fields, strict=True):
            inside = self.file.layout(at.body, at.end)
            if item.HasField("g"):
                yield item.g, same.g, (*scope.path, place, at, inside[ATTRIBUTE_GRAPH][-1]), item.name
            pairs = zip(item.graphs, same.graphs, inside.get(ATTRIBUTE_GRAPHS, []), strict=True)
            for number, (graph, inferred, field_) in enumerate(pairs):
                yield graph, inferred, (*scope.path, place, at, field_), f"{item.name}[{number}]"

    def _order(
        self, graph: GraphProto, made: Mapping[str, int], bodies: Mapping[int, list[GraphProto]]
    ) -> Sequence[int]:
        """Sort the nodes by what they read; those of a sorted file stay in their order."""
        reads = [
            _reads(proto, bodies[index]) if index in bodies else proto.input for index, proto in enumerate(graph.node)
        ]
        if all(made.get(name, -1) < index for index, names in enumerate(reads) for name in names):
            return range(len(reads))
        needs = [{made[name] for name in names if name in made} for names in reads]
        readers: dict[int, list[int]] = {}
        for index, before in enumerate(needs):
            for other in before:
                readers.setdefault(other, []).append(index)
        ready = [index for index, before in enumerate(needs) if not before]
        order = []
        while ready:
            index = heapq.heappop(ready)
            order.append(index)
            for reader in readers.get(index, []):
                needs[reader].discard(index)
                if not needs[reader]:
                    heapq.heappush(ready, reader)
        if len(order) < len(graph.node):
            stuck = next(proto for proto, before in zip(graph.node, needs, strict=True) if before)
            raise BnfoldError(
                f"{self.file.source.name}: node {stuck.name or stuck.op_type!r} depends on its own output"
            )
        return order


def _file_node(scope: Scope, index: int, proto: NodeProto) -> FileNode:
    """Read the proto's parts once: every access to one costs."""
    kind, domain = proto.op_type, proto.domain
    attributes = {item.name: item for item in reversed(proto.attribute)}
    return FileNode("", scope, index, proto, kind if domain in ("", "ai.onnx") else f"{domain}.{kind}", attributes)


def _may_hold_graphs(node: FileNode) -> bool:
    """Whether one of the attributes, of which nearly all nodes have others, may be a graph or a list of them."""
    return not _GRAPHS.isdisjoint([item.type for item in node.attributes.values()])


def _reads(proto: NodeProto, bodies: list[GraphProto]) -> set[str]:
    """Give the names that a node reads, those that its bodies capture among them."""
    found = set(proto.input)
    for graph in bodies:
        for node in graph.node:
            inner = [item.g for item in node.attribute if item.HasField("g")]
            inner += [each for item in node.attribute for each in item.graphs]
            found |= _reads(node, inner)
        found |= {item.name for item in graph.output}
    return found
