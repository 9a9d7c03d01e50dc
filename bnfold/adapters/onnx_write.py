"""Writing an edited ONNX model: what did not change is copied, what did is streamed, and the audit goes along."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path

from bnfold.adapters.onnx_audit import Audit
from bnfold.adapters.onnx_changes import Changes, NewTensor
from bnfold.adapters.onnx_content import row_by_row
from bnfold.adapters.onnx_elsewhere import Fields, holds_external, tensors_elsewhere, tensors_within
from bnfold.adapters.onnx_model import Model
from bnfold.adapters.onnx_parallel import write_file
from bnfold.adapters.onnx_protos import ModelProto, TensorProto
from bnfold.adapters.onnx_scopes import FileNode, Scope
from bnfold.adapters.onnx_skeleton import (
    ANNOTATION,
    ATTRIBUTE,
    INITIALIZER,
    INPUT,
    NODE,
    VALUE_INFO,
)
from bnfold.adapters.onnx_splice import Copied, Literal, MemorySink, Piece, Splice, Streamed, write
from bnfold.adapters.onnx_tensors import CODES, Tensor, bare, tensor
from bnfold.adapters.onnx_wire import Field, header
from bnfold.atomic import is_special, reaching_disk, replacing
from bnfold.errors import BnfoldError
from bnfold.record import record

EXTERNAL_DATA = ("auto", "never", "always")
_RAW_DATA = 9
_EXTERNAL_FROM = 1024  # bytes of a tensor that is worth a place of its own; ONNX's own default
_PAGE, _LARGE = 1 << 12, 1 << 20  # large tensors begin at a page, so that runtimes can map them
_PROTOBUF_LIMIT = (1 << 31) - 1


def to_memory(model: Model, changes: Changes, audit: Audit) -> ModelProto:
    """Give the new model as a ModelProto."""
    sink = MemorySink()
    with row_by_row():
        write(_Writer(model, changes, audit, "never", _Data("")).pieces(), sink)
    return ModelProto.FromString(bytes(sink.data))


def to_file(model: Model, changes: Changes, audit: Audit, target: Path, external_data: str) -> None:
    """Write the new model: its data file first, under a name that nothing has, then the model; or neither.

    Raises BnfoldError where a tensor would overflow, the audit finds a fault, or protobuf's 2 GiB don't hold the model.
    """
    data = _Data(free_name(target))
    folder = target.resolve().parent
    try:
        with replacing(target) as temporary:
            pieces = _fitting(model, changes, audit, external_data, data)
            if data.pieces and is_special(target):
                raise BnfoldError(
                    f"{target}: nothing can lie beside it; give the name of a file, for its external data"
                )
            if data.pieces:
                _write(folder / data.name, data.pieces, target, os.O_CREAT | os.O_EXCL, flush=True)
                data.written = True
            _write(temporary, pieces, target)  # `replacing` puts it on the disk
    except BaseException:
        if data.written:
            (folder / data.name).unlink(missing_ok=True)
        raise


def free_name(target: Path) -> str:
    """Find a name for the data file: an older model of the target's name may still need its own."""
    final = target.resolve()
    name, number = f"{final.name}.data", 2
    while (final.parent / name).exists():
        name, number = f"{final.name}.{number}.data", number + 1
    return name


def _write(path: Path, pieces: Sequence[Piece], target: Path, flags: int = 0, flush: bool = False) -> None:
    """target: what the user knows of."""
    try:
        descriptor = os.open(path, os.O_WRONLY | flags, 0o666)
    except OSError as error:
        raise BnfoldError(f"{target}: can't be written ({error.strerror})") from error
    try:
        with reaching_disk(descriptor):
            write_file(pieces, descriptor)
        if flush:
            os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        way_out = "make room or choose another folder"
        raise BnfoldError(f"{target}: can't be written ({error.strerror}); {way_out}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@record(eq=False, frozen=False)
class _Data:
    """The file of external data that goes with the model."""

    name: str
    pieces: list[Piece] = field(default_factory=list)
    size: int = 0
    written: bool = False

    def add(self, pieces: list[Piece]) -> tuple[int, int]:
        """Append a tensor; give its offset and length."""
        length = sum(piece.length for piece in pieces)
        gap = -self.size % (_PAGE if length >= _LARGE else 64)
        if gap:
            self.pieces.append(Literal(bytes(gap)))
        offset = self.size + gap
        self.pieces += pieces
        self.size = offset + length
        return offset, length


def _fitting(model: Model, changes: Changes, audit: Audit, external_data: str, data: _Data) -> list[Piece]:
    """Lay the model out; with all its tensors outside where it would be too large otherwise, and may be so."""
    pieces = _Writer(model, changes, audit, external_data, data).pieces()
    if sum(piece.length for piece in pieces) > _PROTOBUF_LIMIT and external_data == "auto":
        data.pieces, data.size = [], 0
        pieces = _Writer(model, changes, audit, "always", data).pieces()
    size = sum(piece.length for piece in pieces)
    if size > _PROTOBUF_LIMIT:
        raise BnfoldError(f"{model.name}: needs {size} bytes, over protobuf's 2 GiB; use --external-data auto")
    return pieces


class _Writer:
    """Lays out the new file."""

    def __init__(self, model: Model, changes: Changes, audit: Audit, external_data: str, data: _Data) -> None:
        self.model, self.changes, self.audit, self.data = model, changes, audit, data
        self.policy = external_data
        self.root = Splice(model.file.source, 0, model.file.source.size)
        self.has_external = any(item.tensor.external is not None for item in model.initializers.values())

    def pieces(self) -> list[Piece]:
        """Give the file, piece by piece."""
        for scope in self.model.scopes.scopes:
            if id(scope) not in self.changes.lost:
                self._values(scope)
        self._nodes()
        self._tensors()
        return self.root.pieces()

    def _splice(self, path: tuple[Field, ...]) -> Splice:
        splice = self.root
        for item in path:
            splice = splice.within(item)
        return splice

    def _layout(self, scope: Scope, number: int) -> list[Field]:
        around = scope.path[-1]
        return self.model.file.layout(around.body, around.end).get(number, [])

    # Nodes and values.

    def _nodes(self) -> None:
        for node, protos in self.changes.nodes.items():
            place = self._layout(node.scope, NODE)[node.index]
            data = [proto.SerializeToString() for proto in protos]
            self._splice(node.scope.path).replace(place, [Literal(header(NODE, len(item)) + item) for item in data])
        for node, names in self.changes.names.items():
            place = self._layout(node.scope, NODE)[node.index]
            splice = self._splice((*node.scope.path, place))
            inside = self.model.file.layout(place.body, place.end)
            for (number, index), name in names.items():
                splice.replace(inside[number][index], [_text(number, name)])

    def _values(self, scope: Scope) -> None:
        """Take out what is said of values that are gone, and inputs that are frozen or were constants that are gone."""
        gone = self.changes.gone.get(id(scope), set())
        self._take_out(scope, VALUE_INFO, [item.name in gone for item in scope.graph.value_info])
        lost = gone | {self.model.initializers[name].tensor.name for name in self.changes.dropped}
        annotations = [item.tensor_name in lost for item in scope.graph.quantization_annotation]
        self._take_out(scope, ANNOTATION, annotations)
        if scope.parent is None:
            self._take_out(scope, INPUT, [item.name in self.changes.inputs_gone for item in scope.graph.input])

    def _take_out(self, scope: Scope, number: int, which: list[bool]) -> None:
        for place, out in zip(self._layout(scope, number), which, strict=False):
            if out:
                self._splice(scope.path).replace(place, [])

    # Tensors.

    def _tensors(self) -> None:
        """Lay out the tensors that change, and those that move into or out of the data file, in the file's order."""
        new = {id(item.replaces): item for item in self.changes.tensors if item.replaces is not None}
        for name, item in self.model.initializers.items():
            if id(item.scope) in self.changes.lost:
                continue
            splice = self._splice(item.scope.path) if name in self.changes.dropped or id(item) in new else None
            if name in self.changes.dropped and splice is not None:
                splice.replace(item.place, [])
            elif id(item) in new and splice is not None:
                splice.replace(item.place, self._new(new[id(item)], item.tensor))
            elif (moved := self._moved(item.tensor)) is not None:
                self._splice(item.scope.path).replace(item.place, _field(INITIALIZER, moved))
        for added in self.changes.tensors:
            if added.replaces is None:
                self._append(added)
        for node in self.model.scopes.nodes:
            if id(node.scope) not in self.changes.lost:
                self._attributes(node)
        self._move(tensors_elsewhere(self.model.file))

    def _append(self, added: NewTensor) -> None:
        around = added.scope.path[-1]
        last = self._layout(added.scope, INITIALIZER)
        splice = self._splice(added.scope.path)
        splice.insert(last[-1].end if last else around.end, self._new(added, None))
        if added.scope.parent is None and self.model.file.proto.ir_version < 4:  # where initializers are inputs too
            from onnx import helper

            code = CODES[added.content.dtype]
            info = helper.make_tensor_value_info(added.name, code, added.content.shape).SerializeToString()
            inputs = self._layout(added.scope, INPUT)
            splice.insert(inputs[-1].end if inputs else around.end, [Literal(header(INPUT, len(info)) + info)])

    def _new(self, added: NewTensor, old: Tensor | None) -> list[Piece]:
        """Give the field of a tensor with new numbers; a changed one keeps its documentation."""
        content = added.content
        proto = bare(old.proto) if old is not None else TensorProto(name=added.name)
        del proto.dims[:]
        proto.dims.extend(content.shape)
        proto.data_type = CODES[content.dtype]
        numbers = Streamed(content.nbytes, partial(self.audit.stream, content, added.name))
        was_external = old.external is not None if old is not None else self.has_external
        return _field(INITIALIZER, self._stored(proto, [numbers], self._goes_out(content.nbytes, was_external)))

    def _goes_out(self, size: int, was_external: bool) -> bool:
        if self.policy == "auto":
            return was_external and size >= _EXTERNAL_FROM
        return self.policy == "always" and size >= _EXTERNAL_FROM

    def _moved(self, old: Tensor) -> list[Piece] | None:
        """Give the message of an unchanged tensor that is stored elsewhere now; None where it stays in its place."""
        if old.source is None:
            return None
        goes_out = self._goes_out(old.nbytes, old.external is not None)
        if old.external is None and not goes_out:
            return None
        numbers = Copied(old.source, old.start, old.start + old.nbytes)
        return self._stored(bare(old.proto), [numbers], goes_out)

    def _stored(self, proto: TensorProto, numbers: list[Piece], goes_out: bool) -> list[Piece]:
        """Give a tensor's message, its numbers in it or in the data file."""
        if not goes_out:
            length = sum(piece.length for piece in numbers)
            return [Literal(proto.SerializeToString() + header(_RAW_DATA, length)), *numbers]
        offset, length = self.data.add(numbers)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.data.name), ("offset", offset), ("length", length)):
            proto.external_data.add(key=key, value=str(value))
        return [Literal(proto.SerializeToString())]

    def _attributes(self, node: FileNode) -> None:
        """Move the external data of tensors that nodes hold."""
        external = [holds_external(item) for item in node.proto.attribute]
        if not any(external) or node in self.changes.nodes:
            return
        place = self._layout(node.scope, NODE)[node.index]
        inside = self.model.file.layout(place.body, place.end)[ATTRIBUTE]
        for at in (at for at, found in zip(inside, external, strict=True) if found):
            self._move(tensors_within("attribute", (*node.scope.path, place, at), self.model.file))

    def _move(self, found: Iterable[tuple[Fields, Field]]) -> None:
        """Take external data along, or in: the old data file isn't the new model's."""
        for path, place in found:
            proto = TensorProto.FromString(self.model.file.source.exactly(place.body, place.end - place.body))
            moved = self._moved(tensor(proto, place.body, self.model.file, self.model.folder))
            assert moved is not None
            self._splice(path).replace(place, _field(place.number, moved))


def _field(number: int, message: list[Piece]) -> list[Piece]:
    return [Literal(header(number, sum(piece.length for piece in message))), *message]


def _text(number: int, text: str) -> Literal:
    data = text.encode()
    return Literal(header(number, len(data)) + data)
