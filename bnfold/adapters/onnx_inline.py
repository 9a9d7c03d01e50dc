"""A file in which calls of local functions are replaced by the functions' bodies, as pieces of the file itself.

Folding sees through all calls; the file that is written has those replaced inside which something changed.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from bnfold.adapters.onnx_functions import (
    Body,
    Functions,
    Key,
    Labels,
    domain_of,
    every_node,
    key_of,
    label_of,
    names_in,
    paired,
    placed_bodies,
)
from bnfold.adapters.onnx_joined import joined
from bnfold.adapters.onnx_protos import GraphProto, NodeProto, OperatorSetIdProto
from bnfold.adapters.onnx_skeleton import (
    ATTRIBUTE,
    GRAPH,
    INITIALIZER,
    INPUT,
    NODE,
    NODE_INPUT,
    NODE_OUTPUT,
    VALUE_INFO,
    Layout,
    Skeleton,
    skeleton,
)
from bnfold.adapters.onnx_splice import Literal, Piece, Splice
from bnfold.adapters.onnx_wire import Field, header
from bnfold.record import record

Call: TypeAlias = tuple[int, ...]  # where the calls around it stand in the file, then where it does
_NODE_NAME, _ATTRIBUTE_NAME, _IMPORT = 3, 1, 8  # of a NodeProto, an AttributeProto, a ModelProto
_NAMED = {INPUT: 1, 12: 1, VALUE_INFO: 1, INITIALIZER: 8}  # what a graph names, and the field that holds the name
_MOST_NODES = 100_000  # that calls may become, and
_LEAST_BYTES = 1 << 26  # that they always may


@record
class _Site:
    """One call: its path, the prefix of new names, and what the function's inputs and outputs are called.

    attributes: the call's, and the function's defaults. labels: of the function's nodes, by where they start.
    """

    path: Call
    prefix: str
    values: Mapping[str, str]
    attributes: Mapping[str, Field]
    labels: Mapping[int, str]

    def name(self, inner: str) -> str:
        """Give the name of one of the function's values outside of it."""
        return self.values.get(inner, f"{self.prefix}/{inner}") if inner else ""


class Inlining:
    """The file with calls replaced: all that can be, or those that are chosen, the calls around them among them.

    file: the result. calls: the innermost call that each new node comes from, by the node's name.
    """

    def __init__(self, functions: Functions, chosen: Collection[Call] | None = None) -> None:
        self.functions, self.chosen = functions, chosen
        self.calls: dict[str, Call] = {}
        self._file = functions.file
        self._left: set[Key] = set()
        self._domains: dict[str, None] = {}
        self._nodes, self._bytes = _MOST_NODES, max(_LEAST_BYTES, 4 * self._file.source.size)
        self._labels = Labels(names_in(self._file.proto.graph.node, self._file))
        self._root = Splice(self._file.source, 0, self._file.source.size)
        self.file = self._run()

    def _run(self) -> Skeleton:
        proto = self._file.proto
        place = self._file.layout(0, self._file.source.size)[GRAPH][0]
        self._graph(proto.graph, (place,))
        called = self.functions.reached(key_of(node) for node in every_node(proto.graph.node))
        for key in called - self.functions.reached(self._left):
            self._root.replace(self.functions.by_key[key].place, [])
        known = {domain_of(item.domain) for item in proto.opset_import}
        for domain in self._domains:
            if domain not in known:
                item = OperatorSetIdProto(domain=domain, version=self.functions.imports[domain])
                self._root.insert(self._file.source.size, _message(_IMPORT, [Literal(item.SerializeToString())]))
        return skeleton(joined(self._file.source.name, self._root.pieces()))

    # The graphs of the file.

    def _graph(self, proto: GraphProto, path: tuple[Field, ...]) -> None:
        """Replace the calls of a graph and of the bodies in it. path: the fields that lead to it."""
        places = self._file.layout(path[-1].body, path[-1].end).get(NODE, [])
        for node, at in paired(proto.node, places, self._file):
            if self.functions.is_call(node):
                label = self._labels.new(label_of(node))
                if self._may_replace(node, (at.start,)):
                    outside = _Site((), "", {name: name for name in (*node.input, *node.output)}, {}, {})
                    self._splice(path).replace(at, self._call(node, at, label, outside))
                    continue
            self._stays(node)
            for body in placed_bodies(node, at, self._file):
                self._graph(body.proto, (*path, at, body.attribute, body.place))

    def _splice(self, path: Iterable[Field]) -> Splice:
        splice = self._root
        for item in path:
            splice = splice.within(item)
        return splice

    def _may_replace(self, node: NodeProto, path: Call) -> bool:
        """Whether a call is chosen, and what it becomes is no more than is allowed."""
        if self.chosen is not None:
            return path in self.chosen
        weight = self.functions.weight(key_of(node))
        if weight is None or len(path) > 1:
            return weight is not None
        nodes, size = weight
        if nodes > self._nodes or size > self._bytes:
            return False
        self._nodes, self._bytes = self._nodes - nodes, self._bytes - size
        return True

    def _stays(self, node: NodeProto) -> None:
        if key_of(node) in self.functions.by_key:
            self._left.add(key_of(node))

    # The bodies of functions.

    def _call(self, node: NodeProto, at: Field, prefix: str, around: _Site) -> list[Piece]:
        """Give the nodes that stand for a call. around: the call that it is inside of."""
        function = self.functions.by_key[key_of(node)]
        inputs = [*node.input, *[""] * (len(function.proto.input) - len(node.input))]
        values = {formal: around.name(name) for formal, name in zip(function.proto.input, inputs, strict=True)}
        pairs = zip(function.proto.output, node.output, strict=False)
        values |= {formal: around.name(name) for formal, name in pairs if name}
        attributes = {**function.defaults, **self._attributes(node, at, around)}
        site = _Site((*around.path, at.start), prefix, values, attributes, function.labels)
        return [piece for inner, place in function.nodes for piece in self._node(inner, place, site)]

    def _attributes(self, node: NodeProto, at: Field, around: _Site) -> dict[str, Field]:
        """Find the attributes that a call gives: its own, or those of the call around it that they refer to."""
        found = {}
        for item, place in paired(node.attribute, self._file.layout(at.body, at.end).get(ATTRIBUTE, []), self._file):
            given = around.attributes.get(item.ref_attr_name) if item.ref_attr_name else place
            if given is not None:
                found[item.name] = given
        return found

    def _node(self, node: NodeProto, at: Field, site: _Site) -> list[Piece]:
        """Give what stands for a node of a function's body."""
        label = f"{site.prefix}/{site.labels[at.start]}"
        if self.functions.is_call(node) and self._may_replace(node, (*site.path, at.start)):
            return self._call(node, at, label, site)
        self._stays(node)
        self._domains[domain_of(node.domain)] = None
        self.calls[label] = site.path
        splice = Splice(self._file.source, at.body, at.end)
        inside = self._file.layout(at.body, at.end)
        self._rename(splice, inside, node, site)
        for place in inside.get(_NODE_NAME, []):
            splice.replace(place, [])
        splice.insert(at.end, [_text(_NODE_NAME, label)])
        for item, place in paired(node.attribute, inside.get(ATTRIBUTE, []), self._file):
            if item.ref_attr_name:
                splice.replace(place, self._given(item.name, site.attributes.get(item.ref_attr_name)))
        for body in placed_bodies(node, at, self._file):
            self._body(body, splice.within(body.attribute).within(body.place), site)
        return _message(NODE, splice.pieces())

    def _rename(self, splice: Splice, inside: Layout, node: NodeProto, site: _Site) -> None:
        """Give the operands and results of a node their names outside of the function."""
        for number, names in ((NODE_INPUT, node.input), (NODE_OUTPUT, node.output)):
            for name, place in paired(names, inside.get(number, []), self._file):
                splice.replace(place, [_text(number, site.name(name))])

    def _given(self, name: str, place: Field | None) -> list[Piece]:
        """Give an attribute that a call gives, under the name that it has here; nothing where it gives none."""
        if place is None:
            return []
        splice = Splice(self._file.source, place.body, place.end)
        for old in self._file.layout(place.body, place.end).get(_ATTRIBUTE_NAME, []):
            splice.replace(old, [_text(_ATTRIBUTE_NAME, name)])
        return _message(ATTRIBUTE, splice.pieces())

    def _body(self, body: Body, splice: Splice, site: _Site) -> None:
        """Rename all of a graph that is inside of a function's node."""
        inside = self._file.layout(body.place.body, body.place.end)
        for node, place in body.nodes(self._file):
            splice.replace(place, self._node(node, place, site))
        for number, field in _NAMED.items():
            for place in inside.get(number, []):
                inner = self._file.layout(place.body, place.end)
                for old in inner.get(field, [])[-1:]:
                    name = self._file.source.exactly(old.body, old.end - old.body).decode(errors="replace")
                    splice.within(place).replace(old, [_text(field, site.name(name))])


def _text(number: int, text: str) -> Literal:
    data = text.encode()
    return Literal(header(number, len(data)) + data)


def _message(number: int, pieces: list[Piece]) -> list[Piece]:
    return [Literal(header(number, sum(piece.length for piece in pieces))), *pieces]
