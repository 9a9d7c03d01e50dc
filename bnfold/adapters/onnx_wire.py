"""The protobuf wire format, read without loading the payloads: where each field of a message stands.

https://protobuf.dev/programming-guides/encoding/ has the format. Every length is checked against the message that
holds it, so that whatever is read lies inside the file.
"""

import os
import stat
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bnfold.errors import BnfoldError
from bnfold.record import record

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10
_HEAD = 2 * _MAX_VARINT  # a tag and a length
_WINDOW = 1 << 13
_STRETCH = 1 << 10  # bytes of a message that are looked at together


class Source(ABC):
    """Bytes at offsets: a file, or memory."""

    name: str
    size: int

    @abstractmethod
    def read(self, start: int, count: int) -> bytes:
        """Give `count` bytes from `start`, fewer at the end."""

    def exactly(self, start: int, count: int) -> bytes:
        """Give `count` bytes from `start`; raises BnfoldError where there are fewer."""
        data = self.read(start, count)
        if len(data) != count:
            raise self._too_short(start + count)
        return data

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer of bytes from `start`; raises BnfoldError where there are fewer."""
        buffer[:] = self.exactly(start, len(buffer))

    def parts(self, start: int, count: int) -> "Iterator[Part]":
        """Give the ranges of files or memory that a range is made of."""
        yield Part(self, start, count)

    def _too_short(self, end: int) -> BnfoldError:
        return BnfoldError(f"{self.name}: ends at byte {self.size}, but {end} bytes are wanted of it")


@record
class Part:
    """`count` bytes of a source, from `start` on."""

    source: Source
    start: int
    count: int


class Memory(Source):
    """Bytes that are at hand."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name, self.size, self._data = name, len(data), data

    def read(self, start: int, count: int) -> bytes:
        """Give a part of the bytes."""
        return self._data[start : start + count]


class File(Source):
    """A file that stays open as long as it is referred to; read by position, what is near the last read is kept.

    Raises BnfoldError where the path is no file that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.descriptor = str(path), _open(path)
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BnfoldError(f"{path}: is not a regular file; give an ONNX model")
        self.size = status.st_size
        self._near = (0, b"")

    def read(self, start: int, count: int) -> bytes:
        """Read from the window, or from the file where that doesn't reach."""
        if count > _WINDOW:
            return _read_all(self.descriptor, start, count)
        begin, window = self._near  # read and set as one: threads read too
        if not begin <= start <= start + count <= begin + len(window):
            begin, window = self._near = start, _read_all(self.descriptor, start, _WINDOW)
        return window[start - begin : start - begin + count]

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer from the file, without a copy between."""
        if not fill(self.descriptor, start, buffer):
            raise self._too_short(start + len(buffer))


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without waiting for whoever writes to a pipe
    except OSError as error:
        raise BnfoldError(f"{path}: can't be read ({error.strerror})") from error


def _read_all(descriptor: int, start: int, count: int) -> bytes:
    """Read until `count` bytes or the end: one pread gives 2 GiB at most."""
    parts = []
    while count > 0:
        part = os.pread(descriptor, min(count, 1 << 30), start)
        if not part:
            break
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def fill(descriptor: int, start: int, buffer: memoryview) -> bool:
    """Read into a buffer until it is full or the file ends, which is False."""
    while buffer and (got := os.preadv(descriptor, [buffer], start)):
        start, buffer = start + got, buffer[got:]
    return not buffer


class Field(NamedTuple):
    """A field of a message: its tag at `start`, its value at `body` up to `end`; `value` of a varint."""

    number: int
    wire: int
    start: int
    body: int
    end: int
    value: int = 0


_new = tuple.__new__  # what a NamedTuple calls, which takes twice as long


def fields(source: Source, start: int, end: int, over: int = -1) -> Iterator[Field]:
    """Give the fields of the message at [start, end), in order. Raises BnfoldError where it isn't one.

    over: where it is 0 or more, only fields of bytes are given, and of these those with more than so many.
    """
    begin, window = start, b""
    while start < end:
        if start + _HEAD > begin + len(window) < end:
            begin, window = start, source.read(start, min(_STRETCH, end - start))
        at = start - begin
        if over >= 0x80 and at + 1 < len(window) and (low := window[at + 1]) < 0x80:
            tag = window[at]  # of a short text or a small number, to be passed over
            stop = start + 2 + (low if tag & 7 == BYTES else 0)
            if 8 <= tag < 0x80 and tag & 7 in (VARINT, BYTES) and stop <= end:
                start = stop
                continue
        field = _short(window, at, start, end) or _field(source, window, at, start, end)
        if over < 0 or (field.end - field.body > over and field.wire == BYTES):
            yield field
        start = field.end


def _short(window: bytes, at: int, start: int, end: int) -> Field | None:
    """Decode a field as nearly all are, its tag of one byte and its length or number of one or two; None for others."""
    if at + 2 >= len(window):
        return None
    tag, low = window[at], window[at + 1]
    if not 8 <= tag < 0x80:
        return None
    value, body = low, start + 2
    if low >= 0x80:
        high = window[at + 2]
        if high >= 0x80:
            return None
        value, body = low & 0x7F | high << 7, start + 3
    kind = tag & 7
    if kind == BYTES and body + value <= end:
        return _new(Field, (tag >> 3, BYTES, start, body, body + value, 0))
    return _new(Field, (tag >> 3, VARINT, start, start + 1, body, value)) if kind == VARINT and body <= end else None


def _field(source: Source, window: bytes, at: int, start: int, end: int) -> Field:
    """Decode the field at `start`, whose tag and length are at `window[at:]`."""
    if at >= len(window):
        raise _malformed(source, start, "a message that goes on behind the end")
    tag, after = _varint(source, window, at, start)
    number, wire = tag >> 3, tag & 7
    value, body = 0, start + after - at
    if wire == VARINT:
        value, after = _varint(source, window, after, start)
        stop = start + after - at
    elif wire == BYTES:
        length, after = _varint(source, window, after, start)
        body = start + after - at
        stop = body + length
    elif wire in (FIXED64, FIXED32):
        stop = body + (8 if wire == FIXED64 else 4)
    else:
        raise _malformed(source, start, f"wire type {wire}")
    if number == 0 or stop > end:
        raise _malformed(source, start, f"field {number} goes on to byte {stop} of a message that ends at {end}")
    return Field(number, wire, start, body, stop, value)


def _varint(source: Source, window: bytes, at: int, start: int) -> tuple[int, int]:
    """Decode the varint at `window[at:]`: its value, and where it ends."""
    value = shift = 0
    for byte in window[at : at + _MAX_VARINT]:
        at += 1
        if byte < 0x80:
            return value | byte << shift, at
        value |= (byte & 0x7F) << shift
        shift += 7
    raise _malformed(source, start, "a number that doesn't end")


def _malformed(source: Source, start: int, what: str) -> BnfoldError:
    return BnfoldError(f"{source.name}: not an ONNX model, or a damaged one: {what} (at byte {start})")


@lru_cache(maxsize=1024)  # the lengths of a network's tensors are few
def varint(value: int) -> bytes:
    """Encode a number of 0 and more."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def header(number: int, length: int) -> bytes:
    """Encode the tag and the length of a field that holds `length` bytes."""
    return varint(number << 3 | BYTES) + varint(length)
