"""An ONNX model without its big tensors: a small ModelProto, and where everything stands in the file."""

from collections.abc import Mapping
from dataclasses import field
from typing import TypeAlias

from google.protobuf.message import DecodeError

from bnfold.adapters.onnx_protos import ModelProto
from bnfold.adapters.onnx_wire import BYTES, Field, Source, fields, header
from bnfold.errors import BnfoldError
from bnfold.record import record

Layout: TypeAlias = Mapping[int, list[Field]]  # the fields of one message, by number

GRAPH, TRAINING, FUNCTION = 7, 20, 25  # of a ModelProto
NODE, INITIALIZER, INPUT, VALUE_INFO, ANNOTATION, SPARSE = 1, 5, 11, 13, 14, 15  # of a GraphProto
NODE_INPUT, NODE_OUTPUT, ATTRIBUTE = 1, 2, 5  # of a NodeProto
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11  # of an AttributeProto

# Which messages can hold a tensor, and in which fields (onnx.proto).
SCHEMA: Mapping[str, Mapping[int, str]] = {
    "model": {GRAPH: "graph", TRAINING: "training", FUNCTION: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {NODE: "node", INITIALIZER: "tensor", SPARSE: "sparse"},
    "node": {ATTRIBUTE: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_PAYLOADS = {4, 5, 7, 9, 10, 11}  # float_data, int32_data, int64_data, raw_data, double_data, uint64_data
_SMALL = 256  # bytes of a payload that stays in the skeleton: shapes, axes, scalars
_CHANNELS = 1 << 13  # bytes of an initializer that stays whole, as those of one number a channel do
_ROOM = 1 << 21  # bytes of such initializers: a file may hold nothing else
_TEXT = 1 << 20  # bytes of a model's documentation or metadata that stay in the skeleton
_DEEPEST = 64  # messages inside one another; a subgraph adds three


@record
class Skeleton:
    """proto: the model without its large payloads. payloads: those, by where their tensor's body begins."""

    source: Source
    proto: ModelProto
    payloads: Mapping[int, Field]
    layouts: dict[int, Layout] = field(default_factory=dict)

    def layout(self, start: int, end: int) -> Layout:
        """Give the fields of the message at [start, end)."""
        if start not in self.layouts:
            self.layouts[start] = _by_number(self.source, start, end)
        return self.layouts[start]


def skeleton(source: Source) -> Skeleton:
    """Read a model's structure. Raises BnfoldError where the bytes are no ONNX model."""
    scan = _Scan(source)
    data = scan.message("model", 0, source.size, 0)
    try:
        proto = ModelProto.FromString(data)
    except DecodeError as error:
        raise BnfoldError(f"{source.name}: not an ONNX model, or a damaged one ({error})") from None
    if GRAPH not in scan.layouts[0] or not proto.ir_version:
        raise BnfoldError(f"{source.name}: not an ONNX model: it has no graph or no ir_version")
    if len(scan.layouts[0][GRAPH]) > 1:
        raise BnfoldError(f"{source.name}: has {len(scan.layouts[0][GRAPH])} graphs; wanted one")
    return Skeleton(source, proto, scan.payloads, scan.layouts)


def _by_number(source: Source, start: int, end: int) -> dict[int, list[Field]]:
    found: dict[int, list[Field]] = {}
    for item in fields(source, start, end):
        found.setdefault(item.number, []).append(item)
    return found


class _Scan:
    """One pass over the file that copies all but the payloads."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.payloads: dict[int, Field] = {}
        self.layouts: dict[int, Layout] = {}
        self.room = _ROOM

    def message(self, kind: str, start: int, end: int, depth: int) -> bytes:
        """Copy a message without its payloads."""
        if depth > _DEEPEST:
            raise BnfoldError(f"{self.source.name}: nested deeper than {_DEEPEST} messages; refused")
        parts: list[bytes] = []
        known: dict[int, list[Field]] | None = {} if kind in ("model", "graph") else None
        copied = start
        for item in fields(self.source, start, end, _SMALL if known is None else -1):
            if known is not None:
                known.setdefault(item.number, []).append(item)
                if item.end - item.body <= _SMALL or item.wire != BYTES or self._stays(kind, item):
                    continue
            new = self._large(kind, item, start, depth)
            if new is not None:
                if copied < item.start:
                    parts.append(self.source.exactly(copied, item.start - copied))
                parts.append(new)
                copied = item.end
        if copied < end:
            parts.append(self.source.exactly(copied, end - copied))
        if known is not None:
            self.layouts[start] = known
        return b"".join(parts)

    def _stays(self, kind: str, item: Field) -> bool:
        """Whether a field is an initializer that isn't large, and there is room: it is quicker to copy than to scan."""
        size = item.end - item.body
        if kind != "graph" or item.number != INITIALIZER or size > min(_CHANNELS, self.room):
            return False
        self.room -= size
        return True

    def _large(self, kind: str, item: Field, start: int, depth: int) -> bytes | None:
        """Give what takes the place of a field that isn't small; None where it stays."""
        inner = SCHEMA[kind].get(item.number)
        if inner:
            body = self.message(inner, item.body, item.end, depth + 1)
            return header(item.number, len(body)) + body
        if kind == "tensor" and item.number in _PAYLOADS:
            self._leave_out(item, start)
            return b""
        return b"" if kind in ("model", "graph") and item.end - item.body > _TEXT else None

    def _leave_out(self, item: Field, start: int) -> None:
        if start in self.payloads:
            raise BnfoldError(f"{self.source.name}: a tensor holds its numbers twice (at byte {item.start})")
        self.payloads[start] = item
