"""Several threads write what one would, each with blocks of its own; what fails in one is raised."""

import itertools
import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest

from bnfold.adapters import onnx_parallel
from bnfold.adapters.onnx_audit import AuditError
from bnfold.adapters.onnx_file import fold_file
from bnfold.adapters.onnx_parallel import write_file
from bnfold.adapters.onnx_splice import Copied, Literal, Streamed
from bnfold.adapters.onnx_wire import File
from bnfold.plan import ScaleWeight
from tests.adapters.onnx_cases import batch_norm, model, numbers

DATA = bytes(range(256)) * 1024


@pytest.fixture
def many_threads(monkeypatch):
    monkeypatch.setattr(onnx_parallel, "_RUN", 1 << 12)
    monkeypatch.setattr(onnx_parallel, "_cores", lambda: 4)


def streamed(data, size=1000):
    def make(write):
        for start in range(0, len(data), size):
            write(data[start : start + size])

    return Streamed(len(data), make)


@pytest.mark.usefixtures("many_threads")
def test_pieces_keep_their_order(tmp_path):
    (tmp_path / "source").write_bytes(DATA)
    source = File(tmp_path / "source")
    pieces, wanted = [], b""
    for number, (start, end) in enumerate(itertools.pairwise(range(0, len(DATA), 9_731))):
        mark, made = f"<{number}>".encode(), DATA[start // 2 : end]
        pieces += [Literal(mark), Copied(source, start, end), streamed(made)]
        wanted += mark + DATA[start:end] + made
    with (tmp_path / "out").open("wb") as file:
        write_file(pieces, file.fileno())
    assert (tmp_path / "out").read_bytes() == wanted


def test_an_empty_file_has_no_pieces(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        write_file([], file.fileno())
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", [0, 1, 30])
@pytest.mark.usefixtures("many_threads")
def test_what_fails_in_a_thread_is_raised_when_all_have_ended(tmp_path, fault, place):
    def fail(write):
        write(b"some")
        raise fault

    pieces = [streamed(DATA[:5000]) for _ in range(40)]
    pieces[place] = Streamed(5000, fail)
    with (tmp_path / "out").open("wb") as file, pytest.raises(fault):
        write_file(pieces, file.fileno())
    assert threading.active_count() == 1


def chain(dtype):
    """Ten convolutions of 36 KiB and more, each with a BatchNorm of its own."""
    tensors, nodes = {}, []
    for k in range(10):
        tensors |= {f"w{k}": numbers(f"w{k}", (32, 32, 3, 3), dtype), **batch_norm(32, str(k), dtype)}
        nodes.append(f"c{k} = Conv<pads=[1,1,1,1]>(x{k}, w{k}) x{k + 1} = BN(c{k}, {k})")
    text = f"({dtype}[N,32,4,4] x0) => ({dtype}[N,32,4,4] x10) {{ {' '.join(nodes)} }}"
    return model(text.replace("float32", "float"), **tensors)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_fold_writes_the_same_bytes(tmp_path, request, dtype):
    onnx.save(chain(dtype), tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", tmp_path / "one.onnx")
    request.getfixturevalue("many_threads")
    for _ in range(5):
        fold_file(tmp_path / "model.onnx", tmp_path / "many.onnx")
        assert (tmp_path / "many.onnx").read_bytes() == (tmp_path / "one.onnx").read_bytes()


@pytest.mark.usefixtures("many_threads")
def test_a_fault_in_any_weight_leaves_nothing(tmp_path):
    onnx.save(chain("float32"), tmp_path / "model.onnx")
    plan = fold_file(tmp_path / "model.onnx", dry_run=True).plan
    places = [place for place, edit in enumerate(plan.edits) if isinstance(edit, ScaleWeight)]
    assert len(places) == 10
    for place in places:
        edits = list(plan.edits)
        edits[place] = ScaleWeight(edits[place].node, np.roll(edits[place].out_factor, 1), edits[place].in_factor)
        with pytest.raises(AuditError, match="nothing was written"):
            fold_file(tmp_path / "model.onnx", tmp_path / "out.onnx", plan=replace(plan, edits=tuple(edits)))
        assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}
