"""Bytes that stand in several places, as one source."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from bnfold.adapters.onnx_splice import Copied, Literal, Piece
from bnfold.adapters.onnx_wire import Memory, Part, Source


class Joined(Source):
    """Ranges of other sources, one after the other."""

    def __init__(self, name: str, parts: Iterable[Part]) -> None:
        self.name = name
        self._parts = [part for part in parts if part.count]
        self._starts = [0, *accumulate(part.count for part in self._parts)]
        self.size = self._starts[-1]

    def parts(self, start: int, count: int) -> Iterator[Part]:
        """Give the ranges that a range is made of."""
        end = min(start + count, self.size)
        index = bisect_right(self._starts, start) - 1
        while start < end:
            part, skipped = self._parts[index], start - self._starts[index]
            taken = min(part.count - skipped, end - start)
            yield from part.source.parts(part.start + skipped, taken)
            start, index = start + taken, index + 1

    def read(self, start: int, count: int) -> bytes:
        """Read what each of the ranges has of it."""
        return b"".join(part.source.exactly(part.start, part.count) for part in self.parts(start, count))

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with what each of the ranges has of it."""
        if start + len(buffer) > self.size:
            raise self._too_short(start + len(buffer))
        for part in self.parts(start, len(buffer)):
            part.source.read_into(part.start, buffer[: part.count])
            buffer = buffer[part.count :]


def joined(name: str, pieces: Iterable[Piece]) -> Joined:
    """Give pieces that are all at hand, or in other sources, as a source."""
    return Joined(name, (_part(piece) for piece in pieces))


def _part(piece: Piece) -> Part:
    match piece:
        case Copied():
            return Part(piece.source, piece.start, piece.length)
        case Literal():
            return Part(Memory(piece.data, "new bytes"), 0, piece.length)
    raise TypeError(f"a piece that is made while it is written can't be read: {piece!r}")
