"""Nodes of a file that no output depends on: a fold doesn't count them, and takes out those whose operands it does."""

from collections.abc import Iterator, Mapping

from bnfold.adapters.onnx_protos import FunctionProto, GraphProto, ModelProto, NodeProto
from bnfold.adapters.onnx_scopes import FileNode, Scopes

_COMPUTE = frozenset(("", "ai.onnx", "ai.onnx.ml"))  # domains whose operators do nothing else
_SHOWN = 4  # names in a note


def dead_nodes(scopes: Scopes, proto: ModelProto) -> frozenset[FileNode]:
    """Find the nodes that no output of the model depends on, those in their bodies among them.

    An operator of an unknown domain may do more than compute: it is none, nor what it, or a body that it is in, needs.
    """
    acts = _Acting(proto)
    needed = {scopes.main.resolve(item.name) for item in scopes.main.graph.output}
    dead = []
    for node in reversed(scopes.nodes):
        if not needed.isdisjoint(node.outputs) or acts.node(node):
            needed.update(node.inputs)
            if node.bodies:
                needed.update(results(node))
            needed.discard("")  # operands that are absent, which outputs can be as well
        else:
            dead.append(node)
    return frozenset(dead)


def results(node: FileNode) -> Iterator[str]:
    """Give the outputs of a node's bodies, by their names in the Graph."""
    for body in node.bodies:
        yield from filter(None, (body.resolve(item.name) for item in body.graph.output))


def inside(node: FileNode) -> Iterator[FileNode]:
    """Give the nodes of a node's bodies, and of theirs."""
    for body in node.bodies:
        for inner in body.nodes:
            yield inner
            yield from inside(inner)


def operands(node: FileNode) -> Iterator[str]:
    """Give the names in the Graph of all that a node and its bodies read."""
    for each in (node, *inside(node)):
        yield from filter(None, each.inputs)
        yield from results(each)


class _Acting:
    """Tells which nodes may do more than compute what they give."""

    def __init__(self, proto: ModelProto) -> None:
        self.functions: Mapping[tuple[str, str], FunctionProto] = {
            (item.domain, item.name): item for item in proto.functions
        }
        self._known: dict[tuple[str, str], bool] = {}

    def node(self, node: FileNode) -> bool:
        """Whether a node, or one of its bodies', may."""
        plain = not node.bodies and "." not in node.kind and not self.functions
        return not plain and self._proto(node.proto)

    def _proto(self, proto: NodeProto) -> bool:
        key = (proto.domain, proto.op_type)
        if key in self.functions:
            return self._function(key)
        return proto.domain not in _COMPUTE or any(
            self._proto(inner) for graph in _graphs(proto) for inner in graph.node
        )

    def _function(self, key: tuple[str, str]) -> bool:
        if key not in self._known:
            self._known[key] = False  # for a function that calls itself, which is refused elsewhere
            self._known[key] = any(map(self._proto, self.functions[key].node))
        return self._known[key]


def _graphs(proto: NodeProto) -> Iterator[GraphProto]:
    for item in proto.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def note(dead: list[str], gone: list[str]) -> tuple[str, ...]:
    """Say which nodes weren't counted, and which of them aren't there any more."""
    if not dead:
        return ()
    told = f"no output depends on {_some(dead)}: folded as if not there"
    return (f"{told}; gone with what they read: {_some(gone)}" if gone else told,)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
