"""What two ONNX files differ in, node by node and tensor by tensor, without loading the weights at once."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from bnfold.adapters.onnx_external import Folder
from bnfold.adapters.onnx_protos import ValueInfoProto
from bnfold.adapters.onnx_scopes import FileNode, Scopes, scopes
from bnfold.adapters.onnx_shapes import type_of
from bnfold.adapters.onnx_skeleton import INITIALIZER, Skeleton, skeleton
from bnfold.adapters.onnx_tensors import FLOATS, Tensor, tensor
from bnfold.adapters.onnx_wire import File
from bnfold.record import record

_BLOCK = 1 << 17  # elements of a tensor that are compared at a time


@record
class Difference:
    """One thing that is not the same. sign: "-" only in the first, "+" only in the second, "~" in both, changed."""

    sign: str
    what: str  # node, tensor, input, output, metadata
    name: str
    detail: str = ""

    def __str__(self) -> str:
        """`~ tensor conv.weight  432 of 432 numbers, largest change 1.2 of 3.4`."""
        return f"{self.sign} {self.what} {self.name}" + (f"  {self.detail}" if self.detail else "")


@record(eq=False)
class _Side:
    """One of the two files."""

    file: Skeleton
    scopes: Scopes
    tensors: Mapping[str, Tensor]

    @property
    def nodes(self) -> dict[str, FileNode]:
        """By name."""
        return {node.name: node for node in self.scopes.nodes}


def diff(first: Path, second: Path) -> tuple[Difference, ...]:
    """Compare two ONNX files: metadata, inputs, outputs, nodes, tensors; nodes of If, Loop and Scan too.

    Raises BnfoldError where one of them is no valid model, UnsafeError where external data leads out of its folder.
    """
    a, b = _open(first), _open(second)
    return (*_metadata(a, b), *_ends(a, b), *_nodes(a, b), *_tensors(a, b))


def _open(path: Path) -> _Side:
    file = skeleton(File(path))
    found = scopes(file, file.proto)
    folder = Folder(path)
    tensors = {}
    for scope in found.scopes:
        around = scope.path[-1]
        places = file.layout(around.body, around.end).get(INITIALIZER, [])
        for proto, place in zip(scope.graph.initializer, places, strict=True):
            tensors[scope.qualified(proto.name)] = tensor(proto, place.body, file, folder)
    return _Side(file, found, tensors)


def _metadata(a: _Side, b: _Side) -> Iterable[Difference]:
    """Compare all that is the model's own and not its graph's."""
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        one, other = (getattr(side.file.proto, name) for side in (a, b))
        if one != other:
            yield Difference("~", "metadata", name, f"{one!r} -> {other!r}")
    pairs = [
        (f"opset {item.domain or 'ai.onnx'}", str(item.version), side)
        for side in (a, b)
        for item in side.file.proto.opset_import
    ]
    pairs += [(item.key, item.value, side) for side in (a, b) for item in side.file.proto.metadata_props]
    pairs += [
        (f"function {item.domain}.{item.name}", item.SerializeToString().hex(), side)
        for side in (a, b)
        for item in side.file.proto.functions
    ]
    one = {key: value for key, value, side in pairs if side is a}
    other = {key: value for key, value, side in pairs if side is b}
    yield from _of_mappings("metadata", one, other)


def _of_mappings(what: str, one: Mapping[str, str], other: Mapping[str, str]) -> Iterable[Difference]:
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in other:
            yield Difference("-", what, name)
        elif name not in one:
            yield Difference("+", what, name)
        elif one[name] != other[name]:
            short = max(len(one[name]), len(other[name])) <= 60
            yield Difference("~", what, name, f"{one[name]} -> {other[name]}" if short else "")


def _ends(a: _Side, b: _Side) -> Iterable[Difference]:
    for what in ("input", "output"):
        one, other = ({item.name: _type(item) for item in getattr(side.scopes.main.graph, what)} for side in (a, b))
        yield from _of_mappings(what, one, other)


def _type(item: ValueInfoProto) -> str:
    shape, dtype = type_of(item.type)
    return dtype if shape is None else f"{dtype} ({', '.join('?' if dim is None else str(dim) for dim in shape)})"


def _nodes(a: _Side, b: _Side) -> Iterable[Difference]:
    """Compare nodes of one name; what they read and give, and their attributes but for the bodies (told themselves)."""
    one, other = a.nodes, b.nodes
    for name, node in one.items():
        if name not in other:
            yield Difference("-", "node", name, _signature(node))
        elif (before := _signature(node)) != (after := _signature(other[name])):
            yield Difference("~", "node", name, f"{before}  ->  {after}")
        elif _attributes(node) != _attributes(other[name]):
            yield Difference("~", "node", name, "other attributes")
    yield from (Difference("+", "node", name, _signature(node)) for name, node in other.items() if name not in one)


def _signature(node: FileNode) -> str:
    inputs = ", ".join(name or "-" for name in node.inputs)
    return f"{', '.join(name or '-' for name in node.outputs)} = {node.kind}({inputs})"


def _attributes(node: FileNode) -> dict[str, bytes]:
    plain = (item for item in node.proto.attribute if not item.HasField("g") and not item.graphs)
    return {item.name: item.SerializeToString(deterministic=True) for item in plain}


def _tensors(a: _Side, b: _Side) -> Iterable[Difference]:
    for name, one in a.tensors.items():
        other = b.tensors.get(name)
        if other is None:
            yield Difference("-", "tensor", name, _shape(one))
        elif (one.shape, one.dtype) != (other.shape, other.dtype):
            yield Difference("~", "tensor", name, f"{_shape(one)} -> {_shape(other)}")
        else:
            changed = _numbers(one, other)
            if changed:
                yield Difference("~", "tensor", name, changed)
    for name, other in b.tensors.items():
        if name not in a.tensors:
            yield Difference("+", "tensor", name, _shape(other))


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
        changed += int(np.sum(x != y))
        if one.dtype in FLOATS:
            before, after = x.astype(np.float64), y.astype(np.float64)
            largest = max(largest, float(np.nanmax(np.abs(after - before), initial=0)))
            size = max(size, float(np.nanmax(np.abs(before), initial=0)))
    if not changed:
        return ""
    told = f"{changed} of {one.size} numbers"
    return f"{told}, largest change {largest:.3g} of {size:.3g}" if one.dtype in FLOATS else told
