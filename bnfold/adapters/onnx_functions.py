"""The local functions of a file: which there are, and whether a call may be replaced by the function's body."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TypeAlias, TypeVar

from bnfold.adapters.onnx_protos import AttributeProto, FunctionProto, GraphProto, NodeProto
from bnfold.adapters.onnx_skeleton import ATTRIBUTE, ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS, FUNCTION, NODE, Skeleton
from bnfold.adapters.onnx_wire import Field
from bnfold.errors import BnfoldError
from bnfold.record import record

Key: TypeAlias = tuple[str, str, str]  # domain, name, overload
Message = TypeVar("Message")
_FUNCTION_NODE, _FUNCTION_DEFAULT = 7, 11  # of a FunctionProto
_DEEPEST = 32  # functions that call one another
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def key_of(proto: NodeProto | FunctionProto) -> Key:
    """Give what a call and its function have in common."""
    name = proto.op_type if isinstance(proto, NodeProto) else proto.name
    return domain_of(proto.domain), name, proto.overload


def domain_of(domain: str) -> str:
    """Give the one name of a domain that has two."""
    return "" if domain == "ai.onnx" else domain


def label_of(proto: NodeProto) -> str:
    """Give the name of a node, or what stands for it."""
    return str(proto.name or next(filter(None, proto.output), proto.op_type))


def bodies(proto: NodeProto) -> Iterator[GraphProto]:
    """Give the graphs among a node's attributes."""
    for item in proto.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Give nodes and those of their bodies."""
    for proto in nodes:
        yield proto
        for graph in bodies(proto):
            yield from every_node(graph.node)


def names_in(nodes: Iterable[NodeProto], file: Skeleton) -> set[str]:
    """Give the names of the nodes and of all that they and their bodies read, compute, are given and are told.

    Raises BnfoldError for a name that is no text, which protobuf lets pass.
    """
    found: set[str] = set()
    for proto in every_node(nodes):
        found |= {proto.name, proto.op_type, *proto.input, *proto.output, *(item.name for item in proto.attribute)}
        for graph in bodies(proto):
            found |= {item.name for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)}
    if not all(isinstance(name, str) for name in found):
        raise BnfoldError(f"{file.source.name}: a damaged ONNX model: a name is not in UTF-8")
    return found


class Labels:
    """Prefixes that begin no other name: PREFIX/NAME is new for every NAME."""

    def __init__(self, names: Iterable[str]) -> None:
        self._taken = {name[:at] for name in names for at, letter in enumerate(name) if letter == "/"}

    def new(self, wish: str) -> str:
        """Give the wished one, or one like it."""
        label, number = wish, 2
        while label in self._taken:
            label, number = f"{wish}#{number}", number + 1
        self._taken.add(label)
        return label


@record(eq=False)
class Function:
    """A function of the file. place: its message; nodes: those of its body, each with its place.

    defaults: its attributes that have one. labels: a name for each node, by where that starts.
    """

    proto: FunctionProto
    place: Field
    nodes: list[tuple[NodeProto, Field]]
    defaults: Mapping[str, Field]
    labels: Mapping[int, str]

    @property
    def name(self) -> str:
        """Its name, with the domain."""
        return f"{self.proto.domain}.{self.proto.name}"


def _function(proto: FunctionProto, place: Field, file: Skeleton) -> Function:
    inside = file.layout(place.body, place.end)
    nodes = paired(proto.node, inside.get(_FUNCTION_NODE, []), file)
    defaults = paired(proto.attribute_proto, inside.get(_FUNCTION_DEFAULT, []), file)
    labels = Labels(names_in(proto.node, file))
    named = {at.start: labels.new(label_of(node)) for node, at in _placed(nodes, file)}
    return Function(proto, place, nodes, {item.name: where for item, where in defaults}, named)


def paired(items: Iterable[Message], places: Iterable[Field], file: Skeleton) -> list[tuple[Message, Field]]:
    """Give messages with their places. Raises BnfoldError where a field isn't the message that it should be."""
    messages, fields = list(items), list(places)
    if len(messages) != len(fields):
        raise BnfoldError(
            f"{file.source.name}: a damaged ONNX model: {len(fields)} fields for {len(messages)} messages"
        )
    return list(zip(messages, fields, strict=True))


def _placed(nodes: Iterable[tuple[NodeProto, Field]], file: Skeleton) -> Iterator[tuple[NodeProto, Field]]:
    """Give nodes and those of their bodies, with their places."""
    for proto, at in nodes:
        yield proto, at
        for body in placed_bodies(proto, at, file):
            yield from _placed(body.nodes(file), file)


@record(eq=False)
class Body:
    """A graph that a node's attribute holds, with the places of both."""

    proto: GraphProto
    attribute: Field
    place: Field

    def nodes(self, file: Skeleton) -> list[tuple[NodeProto, Field]]:
        """Give its nodes with their places."""
        return paired(self.proto.node, file.layout(self.place.body, self.place.end).get(NODE, []), file)


def placed_bodies(node: NodeProto, at: Field, file: Skeleton) -> Iterator[Body]:
    """Give the graphs among the attributes of a node at a place."""
    if not any(item.HasField("g") or item.graphs for item in node.attribute):
        return
    for item, place in paired(node.attribute, file.layout(at.body, at.end).get(ATTRIBUTE, []), file):
        inside = file.layout(place.body, place.end)
        if item.HasField("g"):
            yield Body(item.g, place, inside[ATTRIBUTE_GRAPH][-1])
        for graph, where in paired(item.graphs, inside.get(ATTRIBUTE_GRAPHS, []), file):
            yield Body(graph, place, where)


class Functions:
    """The functions of a file, by the key that their calls have."""

    def __init__(self, file: Skeleton) -> None:
        self.file = file
        self.by_key: dict[Key, Function] = {}
        places = file.layout(0, file.source.size).get(FUNCTION, [])
        for proto, place in paired(file.proto.functions, places, file):
            self.by_key[key_of(proto)] = _function(proto, place, file)
        self._weights: dict[Key, tuple[int, int] | None] = {}

    @cached_property
    def imports(self) -> dict[str, int]:
        """The operator sets of the model, and of its functions where it has none of a domain."""
        found: dict[str, int] = {}
        for proto in (self.file.proto, *(function.proto for function in self.by_key.values())):
            for item in proto.opset_import:
                found.setdefault(domain_of(item.domain), item.version)
        return found

    def weight(self, key: Key) -> tuple[int, int] | None:
        """Count the nodes and bytes that stand for a call once all is replaced; None where its body can't stand there.

        Raises BnfoldError where the function calls itself, or calls go deeper than 32.
        """
        if key not in self._weights:
            self._weights[key] = self._weighed(key, ())
        return self._weights[key]

    def _weighed(self, key: Key, around: tuple[Key, ...]) -> tuple[int, int] | None:
        function = self.by_key[key]
        if key in around:
            raise BnfoldError(f"{self.file.source.name}: function {function.name!r} calls itself")
        if key in self._weights:
            return self._weights[key]
        if len(around) == _DEEPEST:
            raise BnfoldError(f"{self.file.source.name}: functions call one another more than {_DEEPEST} deep; refused")
        nodes, size = 0, function.place.end - function.place.body
        for proto in every_node(function.proto.node):
            nodes += 1
            if key_of(proto) in self.by_key and (inner := self._weighed(key_of(proto), (*around, key))):
                nodes, size = nodes + inner[0], size + inner[1]
        found = (nodes, size) if self._can_stand_elsewhere(function) else None
        self._weights[key] = found
        return found

    def is_call(self, proto: NodeProto) -> bool:
        """Whether a node is a call that the function's body can stand for."""
        function = self.by_key.get(key_of(proto))
        if function is None or self.weight(key_of(proto)) is None:
            return False
        fits = len(proto.input) <= len(function.proto.input) and len(proto.output) <= len(function.proto.output)
        return fits and not any(item.type in _GRAPHS for item in proto.attribute)

    def _can_stand_elsewhere(self, function: Function) -> bool:
        """Whether it computes every output itself, under names that can be changed, with the model's operators."""
        proto = function.proto
        made = [name for node in proto.node for name in node.output if name]
        if len(made) != len(set(made)) or not set(proto.output) <= set(made) or set(proto.input) & set(made):
            return False
        for node in every_node(proto.node):
            if any(item.ref_attr_name and item.type in _GRAPHS for item in node.attribute):
                return False
            if any(graph.sparse_initializer or graph.quantization_annotation for graph in bodies(node)):
                return False
        versions = {domain_of(item.domain): item.version for item in proto.opset_import}
        return all(self._means_the_same(node, versions) for node in every_node(proto.node))

    def _means_the_same(self, node: NodeProto, versions: Mapping[str, int]) -> bool:
        """Whether the operator is of one version in the function's operator set and in the model's."""
        domain = domain_of(node.domain)
        own, model = versions.get(domain), self.imports.get(domain)
        if own is None or model is None:
            return False
        if own == model or key_of(node) in self.by_key:
            return True
        from onnx import defs

        try:
            first, second = (defs.get_schema(node.op_type, version, domain) for version in (own, model))
        except defs.SchemaError:
            return False
        return bool(first.since_version == second.since_version)

    def reached(self, keys: Iterable[Key]) -> set[Key]:
        """Give the functions of these keys, and those that they call."""
        found: set[Key] = set()
        ahead = list(keys)
        while ahead:
            key = ahead.pop()
            if key in self.by_key and key not in found:
                found.add(key)
                ahead += [key_of(node) for node in every_node(self.by_key[key].proto.node)]
        return found
