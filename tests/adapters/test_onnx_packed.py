"""Types of fewer than eight bits, whose numbers share bytes: read, written and compared by their numbers."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper

from bnfold.adapters.onnx_diff import diff
from bnfold.adapters.onnx_file import fold_file
from tests.adapters.onnx_cases import batch_norm, feeds_of, model, numbers, run

HEADER = "(float[2,32,5,5] x) => (float[2,3,h,w] y) "
SHIFTED = HEADER + "{ w = DequantizeLinear<axis=0>(q, s, z) d = Sub(x, mean) y = Conv(d, w, b) }"
NORMED = HEADER + "{ w = DequantizeLinear<axis=0>(q, s, z) c = Conv(x, w) y = BN(c) }"
KINDS = {"int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}


def integers(kind, *shape):
    low = -8 if kind == "int4" else 0
    return np.random.default_rng(0).integers(low, low + 16, shape).astype(KINDS[kind])


def scales(*shape):
    return np.random.default_rng(1).uniform(0.1, 0.2, shape).astype(np.float32)


def folded(text, tmp_path, raw=True, **tensors):
    """Fold the model; the outputs before and after, of a file that ONNX's checker takes."""
    proto = model(text, 21, ir_version=10, **tensors)
    if not raw:
        for item in proto.graph.initializer:
            if item.data_type in (TensorProto.INT4, TensorProto.UINT4):
                whole = numpy_helper.to_array(item).astype(np.int32).reshape(-1)
                item.CopyFrom(helper.make_tensor(item.name, item.data_type, item.dims, whole.tolist()))
    # What stands behind the packed numbers in the file must not be taken for them.
    proto.graph.initializer.append(numpy_helper.from_array(np.full(4096, 7, np.float32), "unused"))
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    result = fold_file(source, target)
    onnx.checker.check_model(str(target), full_check=True)
    return result, [run(path, feeds_of(proto))[0] for path in (source, target)]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_goes_through_a_weight_of_four_bits(kind, raw, tmp_path):
    tensors = {"q": integers(kind, 3, 32, 3, 3), "s": scales(3), "z": integers(kind, 3), "b": numbers("b", (3,))}
    result, (want, got) = folded(SHIFTED, tmp_path, raw, **tensors, mean=numbers("m", (32, 1, 1)))
    assert len(result.plan.folded) == 1
    assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("kind", KINDS)
def test_one_zero_point_of_four_bits_becomes_one_for_each_channel(kind, tmp_path):
    zero = np.asarray(3, KINDS[kind])
    result, (want, got) = folded(NORMED, tmp_path, q=integers(kind, 3, 32, 3, 3), s=scales(), z=zero, **batch_norm(3))
    assert len(result.plan.folded) == 1
    assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_files_are_compared_by_the_numbers(raw, tmp_path):
    before = integers("int4", 3, 5)
    after = before.copy()
    after[1, 2], after[2, 4] = 7 - after[1, 2], 7 - after[2, 4]
    for name, array in (("a", before), ("b", after)):
        proto = model("(float[2] x) => (float[2] y) { y = Relu(x) }", 21, ir_version=10, q=array)
        if not raw:
            item = proto.graph.initializer[0]
            item.CopyFrom(helper.make_tensor("q", TensorProto.INT4, (3, 5), array.astype(int).reshape(-1).tolist()))
        onnx.save(proto, tmp_path / f"{name}.onnx")
    found = diff(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert [str(one) for one in found] == ["~ tensor q  2 of 15 numbers"]


@pytest.mark.parametrize(("code", "size"), [(24, 6), (25, 2), (26, 2), (27, 5), (28, 5)])
def test_tensors_of_the_newest_types_are_left_alone(code, size, tmp_path):
    """FLOAT8E8M0, UINT2, INT2 and the floats of six bits; six numbers each."""
    proto = model("(float[2,3] x) => (float[2,3] y) { n = BN(x) y = Identity(n) }", 17, **batch_norm(3))
    data = bytes(range(1, size + 1))
    proto.graph.initializer.append(TensorProto(name="q", data_type=code, dims=[6], raw_data=data))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    (kept,) = [item for item in onnx.load(tmp_path / "folded.onnx").graph.initializer if item.name == "q"]
    assert kept.raw_data == data
