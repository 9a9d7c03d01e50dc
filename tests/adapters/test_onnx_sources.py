"""Bytes that are read into an array, from a file, external data or memory; and what is written in small pieces."""

import os

import pytest

from bnfold.adapters.onnx_external import DataFile
from bnfold.adapters.onnx_splice import Copied, FileSink, Literal, write
from bnfold.adapters.onnx_wire import File, Memory
from bnfold.errors import BnfoldError

DATA = bytes(range(256)) * 1024


@pytest.fixture(params=["file", "external", "memory"])
def source(request, tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    made = {"file": File, "external": lambda path: DataFile(path, "data.bin"), "memory": lambda _: Memory(DATA, "data")}
    return made[request.param](path)


@pytest.mark.parametrize(("start", "count"), [(0, 10), (3, 100_000), (len(DATA) - 5, 5), (7, 0)])
def test_a_buffer_is_filled(source, start, count):
    buffer = bytearray(count)
    source.read_into(start, memoryview(buffer))
    assert buffer == DATA[start : start + count]


def test_what_ends_before_is_refused(source):
    with pytest.raises(BnfoldError, match="ends at byte"):
        source.read_into(len(DATA) - 5, memoryview(bytearray(6)))


def test_a_file_that_was_cut_off_meanwhile_is_refused(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    source = File(path)
    os.truncate(path, 100)
    with pytest.raises(BnfoldError, match=r"data\.bin"):
        source.read_into(50, memoryview(bytearray(100)))


def test_small_and_large_pieces_keep_their_order(source, tmp_path):
    spans = [(0, 3), (3, 40), (40, 90_000), (90_000, 90_001), (90_001, 200_000), (200_000, len(DATA))]
    pieces = [Literal(b"first")]
    for start, end in spans:
        pieces += [Copied(source, start, end), Literal(b"|" * (start % 70_000))]
    with (tmp_path / "out").open("wb") as file:
        sink = FileSink(file.fileno())
        write(pieces, sink)
        sink.flush()
    wanted = b"first" + b"".join(DATA[start:end] + b"|" * (start % 70_000) for start, end in spans)
    assert (tmp_path / "out").read_bytes() == wanted
