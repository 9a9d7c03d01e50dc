"""A file as pieces: ranges of the old one that are copied, and new bytes between them, with the lengths around them."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from typing import Protocol, TypeAlias

from bnfold.adapters.onnx_external import DataFile
from bnfold.adapters.onnx_wire import Field, File, Source, header
from bnfold.record import record

_CHUNK = 1 << 20
_SMALL = 1 << 15  # bytes that aren't worth a call to the system


class Sink(Protocol):
    """Where pieces go."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""

    def copy(self, source: Source, start: int, count: int) -> None:
        """Append a range of another file."""


class MemorySink:
    """Bytes in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self.data += data

    def copy(self, source: Source, start: int, count: int) -> None:
        """Append a range of another file."""
        self.data += source.exactly(start, count)


class FileSink:
    """A file that is open for writing, from byte `start` on; other files' ranges are copied by the system where it can.

    Small pieces are gathered; `flush` writes the last of them.
    """

    def __init__(self, descriptor: int, start: int = 0) -> None:
        self.descriptor = descriptor
        self._at = start  # where what is gathered will stand: threads share the descriptor's own position
        self._gathered = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        if len(self._gathered) + len(data) <= _SMALL:
            self._gathered += data
            return
        self.flush()
        if len(data) <= _SMALL:
            self._gathered += data
        else:
            self._write(data)

    def flush(self) -> None:
        """Write what was gathered."""
        data, self._gathered = self._gathered, bytearray()
        self._write(data)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        if not data:
            return
        rest = memoryview(data)
        while rest:
            count = os.pwrite(self.descriptor, rest, self._at)
            rest = rest[count:]
            self._at += count

    def copy(self, source: Source, start: int, count: int) -> None:
        """Append a range of another file."""
        if count > _SMALL:
            with _descriptor(source) as descriptor:
                if descriptor is not None:
                    copied = self._let_system_copy(descriptor, start, count)
                    start, count = start + copied, count - copied
        while count:
            data = source.exactly(start, min(count, _CHUNK))
            self.write(data)
            start, count = start + len(data), count - len(data)

    def _let_system_copy(self, descriptor: int, start: int, count: int) -> int:
        """Copy without the bytes' passing through this process; give how many it was (old systems: none)."""
        self.flush()
        done = 0
        with contextlib.suppress(OSError, AttributeError):
            while done < count and (
                part := os.copy_file_range(descriptor, self.descriptor, count - done, start + done, self._at)
            ):
                done += part
                self._at += part
        return done


@contextlib.contextmanager
def _descriptor(source: Source) -> Iterator[int | None]:
    """Give the open file of a source; None for memory."""
    if isinstance(source, File):
        yield source.descriptor
    elif isinstance(source, DataFile):
        descriptor = source.open()
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        yield None


@record
class Copied:
    """A range of the old file."""

    source: Source
    start: int
    end: int

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.end - self.start

    def write(self, sink: Sink) -> None:
        """Copy it."""
        for part in self.source.parts(self.start, self.length):
            sink.copy(part.source, part.start, part.count)


@record
class Literal:
    """New bytes."""

    data: bytes

    @property
    def length(self) -> int:
        """The number of bytes."""
        return len(self.data)

    def write(self, sink: Sink) -> None:
        """Write them."""
        sink.write(self.data)


@record
class Streamed:
    """New bytes that are made while they are written; `make` gives them to the function that it gets, part by part."""

    length: int
    make: Callable[[Callable[[bytes | memoryview], None]], None]

    def write(self, sink: Sink) -> None:
        """Make and write them."""
        self.make(sink.write)


Piece: TypeAlias = Copied | Literal | Streamed


def write(pieces: Iterable[Piece], sink: Sink) -> None:
    """Write pieces in order."""
    for piece in pieces:
        piece.write(sink)


@record(eq=False, frozen=False)
class Splice:
    """A message of the file, at [start, end), some fields of which are other ones in the new file."""

    source: Source
    start: int
    end: int
    replaced: dict[int, tuple[Field, "list[Piece] | Splice"]] = field(default_factory=dict)  # by where the field starts
    inserted: dict[int, list[Piece]] = field(default_factory=dict)  # before the field that starts there, or at the end

    def within(self, item: Field) -> "Splice":
        """Give the splice of a message that is a field of this one."""
        if item.start not in self.replaced:
            self.replaced[item.start] = (item, Splice(self.source, item.body, item.end))
        inner = self.replaced[item.start][1]
        assert isinstance(inner, Splice), "a field is both replaced and spliced"
        return inner

    def replace(self, item: Field, pieces: list[Piece]) -> None:
        """Put pieces, each of whole fields, in a field's place."""
        self.replaced[item.start] = (item, pieces)

    def insert(self, at: int, pieces: list[Piece]) -> None:
        """Put pieces before the field that starts at `at`, or at the message's end."""
        self.inserted.setdefault(at, []).extend(pieces)

    def pieces(self) -> list[Piece]:
        """Give the new message, without its own tag and length."""
        found: list[Piece] = []
        at = self.start
        for place in sorted({*self.replaced, *self.inserted}):
            if at < place:
                found.append(Copied(self.source, at, place))
                at = place
            found += self.inserted.get(place, [])
            if place in self.replaced:
                item, new = self.replaced[place]
                found += new if isinstance(new, list) else _wrapped(item, new.pieces())
                at = item.end
        if at < self.end:
            found.append(Copied(self.source, at, self.end))
        return found


def _wrapped(item: Field, pieces: list[Piece]) -> list[Piece]:
    """Put the tag and the new length before a message."""
    return [Literal(header(item.number, sum(piece.length for piece in pieces))), *pieces]
