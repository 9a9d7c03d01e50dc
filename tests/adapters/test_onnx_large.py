"""Large files: places beyond 4 GiB, what the system copies, what is held in memory, and the order of writing."""

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

import bnfold
from bnfold.adapters import onnx_write
from bnfold.errors import BnfoldError
from tests.adapters.onnx_cases import model, numbers

ROWS, COLUMNS = 2048, 1024
FAR = (4 << 30) + 4096  # where the weight begins
TABLE = (24 << 20) + 100  # bytes of what is before it and doesn't change
HELD = 4 << 20  # bytes, at most, of which all tensors have more


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model whose weight is far inside of a file that is nearly all holes."""
    proto = model(
        f"(float[N,{COLUMNS}] x) => (float[N,{ROWS}] y) {{ c = MatMul(x, w) y = Mul(c, s) }}",
        w=(COLUMNS, ROWS),
        s=(ROWS,),
    )
    proto.graph.initializer.insert(0, TensorProto(name="table", data_type=TensorProto.UINT8, dims=[TABLE]))
    table, held = proto.graph.initializer[:2]
    data = held.raw_data
    for item, offset, length in ((held, FAR, len(data)), (table, 0, TABLE)):
        item.raw_data = b"-"
        set_external_data(item, "weights.bin", offset, length)
        item.ClearField("raw_data")
    with (tmp_path / "weights.bin").open("wb") as file:
        file.write(b"table")
        file.seek(FAR)
        file.write(data)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "model.onnx"


def assert_right(folded: Path) -> None:
    table, weight = onnx.load(folded).graph.initializer
    wanted = numbers("w", (COLUMNS, ROWS)).astype(np.float64) * numbers("s", (ROWS,))
    np.testing.assert_array_equal(numpy_helper.to_array(weight), wanted.astype(np.float32))
    array = numpy_helper.to_array(table)
    assert array[:6].tobytes() == b"table\0"
    assert (array.size, array[5:].max()) == (TABLE, 0)
    for item in onnx.load(folded, load_external_data=False).graph.initializer:
        (offset,) = [int(entry.value) for entry in item.external_data if entry.key == "offset"]
        assert offset % 4096 == 0  # a runtime can map it


def test_a_tensor_beyond_4_gib(large: Path) -> None:
    folded = bnfold.fold(large).model
    assert_right(folded)
    (data,) = large.parent.glob("model.folded.onnx.data")
    assert data.stat().st_size < 2 * TABLE  # what nothing refers to stays behind


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="this system copies nothing by itself")
def test_the_system_copies_what_does_not_change(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied, system = [], os.copy_file_range

    def counted(*args: int) -> int:
        copied.append(system(*args))
        return copied[-1]

    monkeypatch.setattr(os, "copy_file_range", counted)
    assert_right(bnfold.fold(large).model)
    assert sum(copied) == TABLE


@pytest.mark.parametrize("fault", [OSError(errno.EXDEV, "other device"), AttributeError("none here"), None])
def test_where_it_can_not_the_bytes_are_read_and_written(
    fault: Exception | None, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: int) -> int:
        if fault is None:
            return 0
        raise fault

    monkeypatch.setattr(os, "copy_file_range", refused, raising=False)
    assert_right(bnfold.fold(large).model)


def test_tensors_go_through_in_blocks(large: Path) -> None:
    bnfold.fold(large, dry_run=True)  # imports
    tracemalloc.start()
    try:
        bnfold.fold(large)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < HELD < 4 * ROWS * COLUMNS


def test_the_data_is_whole_before_the_model_has_its_name(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, right = [], onnx_write.write_file

    def watched(*args: object) -> None:
        right(*args)
        seen.append({path.name: path.stat().st_size for path in large.parent.glob("model.folded.onnx*")})

    monkeypatch.setattr(onnx_write, "write_file", watched)
    bnfold.fold(large)
    data = (large.parent / "model.folded.onnx.data").stat().st_size
    assert seen == [{"model.folded.onnx.data": data}] * 2


@pytest.mark.parametrize("number", [1, 2], ids=["the data", "the model"])
def test_where_one_of_both_fails_there_is_neither(number: int, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, right = [], onnx_write.write_file

    def failing(*args: object) -> None:
        calls.append(args)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "no space left")
        right(*args)

    monkeypatch.setattr(onnx_write, "write_file", failing)
    (large.parent / "model.folded.onnx").write_bytes(b"older")
    with pytest.raises(BnfoldError, match=r"model\.folded\.onnx: .*no space left") as caught:
        bnfold.fold(large)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in large.parent.iterdir()) == ["model.folded.onnx", "model.onnx", "weights.bin"]
    assert (large.parent / "model.folded.onnx").read_bytes() == b"older"
