"""What two ONNX files differ in, node by node and tensor by tensor, without loading the weights at once."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnfold.adapters.onnx_protos import GraphProto, ModelProto, ValueInfoProto
from bnfold.adapters.onnx_scopes import FileNode, Scope
from bnfold.adapters.onnx_shapes import type_of
from bnfold.adapters.onnx_sides import Side, opened
from bnfold.adapters.onnx_skeleton import FUNCTION, GRAPH, INITIALIZER, INPUT, NODE, VALUE_INFO
from bnfold.adapters.onnx_tensors import FLOATS, Tensor
from bnfold.record import record

_BLOCK = 1 << 17  # elements of a tensor that are compared at a time
_LONG = 60  # characters of a detail that is worth no line
_OUTPUT = 12  # of a GraphProto
_SCALARS = {
    1: "ir_version",
    2: "producer_name",
    3: "producer_version",
    4: "domain",
    5: "model_version",
    6: "doc_string",
}  # of a ModelProto
_OPSETS, _PROPERTIES = 8, 14


@record
class Difference:
    """One thing that is not the same. sign: "-" only in the first, "+" only in the second, "~" in both, changed."""

    sign: str
    what: str  # node, tensor, input, output, value_info, metadata
    name: str
    detail: str = ""

    def __str__(self) -> str:
        """`~ tensor conv.weight  432 of 432 numbers, largest change 1.2 of 3.4`."""
        return f"{self.sign} {self.what} {self.name}" + (f"  {self.detail}" if self.detail else "")


def diff(first: Path, second: Path) -> tuple[Difference, ...]:
    """Compare two ONNX files: metadata, inputs, outputs, nodes, tensors; nodes of If, Loop and Scan too.

    How and where a tensor is stored, and the order of nodes and tensors, don't count.
    Raises BnfoldError where one of them is no valid model, UnsafeError where external data leads out of its folder.
    """
    a, b = opened(first), opened(second)
    return (*_metadata(a, b), *_graphs(a, b), *_nodes(a, b), *_tensors(a.tensors, b.tensors))


def _metadata(a: Side, b: Side) -> Iterable[Difference]:
    """Compare all that is the model's own and not its graph's."""
    for name in _SCALARS.values():
        one, other = (getattr(side.file.proto, name) for side in (a, b))
        if one != other:
            detail = f"{one!r} -> {other!r}"
            yield Difference("~", "metadata", name, detail if len(detail) <= 2 * _LONG else "")
    yield from _of_mappings("metadata", *(_opsets(side) for side in (a, b)))
    for item in ("metadata_props", "functions"):
        yield from _of_mappings("metadata", *(_named(side, item) for side in (a, b)))
    told = {*_SCALARS, GRAPH, FUNCTION, _OPSETS, _PROPERTIES}
    yield from _of_mappings("metadata", *(_called(side.rest(None, told), ModelProto) for side in (a, b)))


def _opsets(side: Side) -> dict[str, str]:
    return {f"opset {item.domain or 'ai.onnx'}": str(item.version) for item in side.file.proto.opset_import}


def _named(side: Side, kind: str) -> dict[str, str]:
    if kind == "functions":
        return {f"function {name}": digest for name, digest in side.functions().items()}
    return {item.key: item.value for item in side.file.proto.metadata_props}


def _called(found: Mapping[int, str], message: type[ModelProto | GraphProto], label: str = "") -> dict[str, str]:
    """Give digests of fields by the fields' names, as far as this version of ONNX has them."""
    known = message.DESCRIPTOR.fields_by_number
    return {
        f"{label}{known[number].name if number in known else f'field {number}'}": digest
        for number, digest in found.items()
    }


def _of_mappings(what: str, one: Mapping[str, str], other: Mapping[str, str]) -> Iterable[Difference]:
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in other:
            yield Difference("-", what, name)
        elif name not in one:
            yield Difference("+", what, name)
        elif one[name] != other[name]:
            short = max(len(one[name]), len(other[name])) <= _LONG
            yield Difference("~", what, name, f"{one[name]} -> {other[name]}" if short else "")


def _graphs(a: Side, b: Side) -> Iterable[Difference]:
    """Compare what graphs of one place say of their values, and their documentation."""
    one, other = ({scope.prefix: scope for scope in side.scopes.scopes} for side in (a, b))
    for prefix in (name for name in one if name in other):
        for what in ("input", "output", "value_info"):
            types = (_types(scopes[prefix], what) for scopes in (one, other))
            yield from _of_mappings(what, *types)
        told = {NODE, INITIALIZER, INPUT, _OUTPUT, VALUE_INFO}
        label = one[prefix].qualified("graph ")
        rest = (side.rest(scopes[prefix].path[-1], told) for side, scopes in ((a, one), (b, other)))
        yield from _of_mappings("metadata", *(_called(found, GraphProto, label) for found in rest))


def _types(scope: Scope, what: str) -> dict[str, str]:
    items: Iterable[ValueInfoProto] = getattr(scope.graph, what)
    return {scope.qualified(item.name): _type(item) for item in items}


def _type(item: ValueInfoProto) -> str:
    shape, dtype = type_of(item.type)
    told = dtype if shape is None else f"{dtype} ({', '.join('?' if dim is None else str(dim) for dim in shape)})"
    known = dtype != "unknown" and not item.doc_string and not item.metadata_props
    return told if known else " ".join(str(item).split())


def _nodes(a: Side, b: Side) -> Iterable[Difference]:
    """Compare nodes of one name; what they read and give, and their attributes but for the bodies (told themselves)."""
    one, other = a.nodes, b.nodes
    for name, node in one.items():
        if name not in other:
            yield Difference("-", "node", name, _signature(node))
            continue
        second = other[name]
        if (before := _signature(node)) != (after := _signature(second)):
            yield Difference("~", "node", name, f"{before}  ->  {after}")
        if a.attributes(node) != b.attributes(second):
            yield Difference("~", "node", name, "other attributes")
        if _documentation(node) != _documentation(second):
            yield Difference("~", "node", name, "other documentation")
        held = ({f"{name}.{key}": item for key, item in side.held(at).items()} for side, at in ((a, node), (b, second)))
        yield from _tensors(*held)
    yield from (Difference("+", "node", name, _signature(node)) for name, node in other.items() if name not in one)


def _documentation(node: FileNode) -> tuple[object, ...]:
    proto = node.proto
    return proto.name, proto.overload, proto.doc_string, sorted((item.key, item.value) for item in proto.metadata_props)


def _signature(node: FileNode) -> str:
    inputs = ", ".join(name or "-" for name in node.inputs)
    return f"{', '.join(name or '-' for name in node.outputs)} = {node.kind}({inputs})"


def _tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterable[Difference]:
    for name, before in one.items():
        after = other.get(name)
        if after is None:
            yield Difference("-", "tensor", name, _shape(before))
        elif (before.shape, before.dtype) != (after.shape, after.dtype):
            yield Difference("~", "tensor", name, f"{_shape(before)} -> {_shape(after)}")
        elif changed := _numbers(before, after):
            yield Difference("~", "tensor", name, changed)
        elif before.proto.doc_string != after.proto.doc_string:
            yield Difference("~", "tensor", name, "other documentation")
    yield from (Difference("+", "tensor", name, _shape(item)) for name, item in other.items() if name not in one)


def _shape(item: Tensor) -> str:
    return f"{item.dtype} {item.shape}"


def _numbers(one: Tensor, other: Tensor) -> str:
    """Say how many numbers differ and by how much; empty where the bytes are the same."""
    if one.dtype == "str":
        return "" if list(one.proto.string_data) == list(other.proto.string_data) else "other strings"
    changed, largest, size = 0, 0.0, 0.0
    for first in range(0, one.size, _BLOCK):
        count = min(_BLOCK, one.size - first)
        x, y = one.stored(first, count), other.stored(first, count)
        if x.tobytes() == y.tobytes():
            continue
        changed += int(np.any(_bytes(x) != _bytes(y), axis=1).sum())
        if one.dtype in FLOATS:
            before, after = x.astype(np.float64), y.astype(np.float64)
            with np.errstate(invalid="ignore"):  # two infinities
                largest = max(largest, float(np.nanmax(np.abs(after - before), initial=0)))
            size = max(size, float(np.nanmax(np.abs(before), initial=0)))
    if not changed:
        return ""
    told = f"{changed} of {one.size} numbers"
    return f"{told}, largest change {largest:.3g} of {size:.3g}" if one.dtype in FLOATS else told


def _bytes(numbers: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Give the bytes, (count, bytes of each): -0.0 is other bytes than 0.0."""
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), -1)
