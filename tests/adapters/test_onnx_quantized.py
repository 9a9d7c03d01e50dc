"""Weights behind a DequantizeLinear: the integers stay, factors go into the scales, or nothing is folded."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import numpy_helper

from bnfold.adapters.onnx_file import fold_file
from tests.adapters.onnx_cases import batch_norm, feeds_of, kinds, model, numbers, run

IMAGE = "(float[2,6,8,8] x) => (float[2,4,h,w] y) "
ROWS = "(float[2,6] x) => (float[2,4] y) "
BN = batch_norm(4)


def integers(*shape):
    return np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)


def scales(count=0):
    return np.asarray(np.random.default_rng(1).uniform(0.01, 0.02, count or ()), np.float32)


def folded(text, tmp_path, **tensors):
    """Fold; the same numbers without ONNX Runtime's optimiser, which quantises x where a MatMul's weight is."""
    proto = model(text, **tensors)
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    result = fold_file(source, target)
    onnx.checker.check_model(str(target), full_check=True)
    want, got = (run(path, feeds_of(proto))[0] for path in (source, target))
    assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert not fold_file(target, tmp_path / "again.onnx").plan.folded
    return onnx.load(target), [reason.why.code for kept in result.plan.kept for reason in kept.why]


def arrays(proto):
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


@pytest.mark.parametrize("count", [0, 4], ids=["one scale", "a scale for each channel"])
@pytest.mark.parametrize(
    ("text", "shape", "axis", "left"),
    [
        ("t = Transpose<perm=[1,0]>(w) c = MatMul(x, t) y = BN(c)", (4, 6), 0, "DequantizeLinear Transpose Gemm"),
        ("t = Transpose(w) c = Gemm(x, t) y = BN(c)", (4, 6), 0, "DequantizeLinear Transpose Gemm"),
        ("i = Identity(w) c = Gemm<transB=1>(x, i) y = BN(c)", (4, 6), 0, "DequantizeLinear Identity Gemm"),
        ("c = Gemm(x, w) y = BN(c)", (6, 4), 1, "DequantizeLinear Gemm"),
        ("c = MatMul(x, w) d = Add(c, b) y = BN(d)", (6, 4), 1, "DequantizeLinear MatMul Add"),
    ],
)
def test_a_factor_goes_into_the_scales_over_transposes(text, shape, axis, left, count, tmp_path):
    tensors = {"q": integers(*shape), "s": scales(count), **BN}
    if "b)" in text:
        tensors["b"] = numbers("b", (4,))
    result, _ = folded(ROWS + f"{{ w = DequantizeLinear<axis={axis}>(q, s) {text} }}", tmp_path, **tensors)
    assert kinds(result) == left.split()
    assert np.array_equal(arrays(result)["q"], tensors["q"])
    assert arrays(result)["s"].shape == (4,)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("c = ConvTranspose<group=2>(x, w) y = BN(c)", (6, 2, 3, 3)),
        ("v = Mul(w, m) c = Conv(x, v) y = BN(c)", (4, 6, 3, 3)),
        ("k = Reshape(w, k2) c = Conv(x, k) y = BN(c)", (4, 6, 9)),
    ],
    ids=["groups of a transposed one", "arithmetic", "another shape"],
)
def test_what_has_no_scale_for_each_output_channel_is_left_alone(text, shape, tmp_path):
    given = {"m": numbers("m", (4, 1, 1, 1)), "k2": np.array([4, 6, 3, 3])}
    tensors = {"q": integers(*shape), "s": scales(), **BN, **{k: v for k, v in given.items() if f" {k})" in text}}
    result, why = folded(IMAGE + f"{{ w = DequantizeLinear(q, s) {text} }}", tmp_path, **tensors)
    assert kinds(result)[-1] == "BatchNormalization"
    assert "quantized" in why


def test_a_quantised_bias_is_left_alone(tmp_path):
    tensors = {"q": integers(4, 6, 3, 3), "s": scales(4), "r": integers(4).astype(np.int32), "t": scales()}
    text = "{ w = DequantizeLinear<axis=0>(q, s) b = DequantizeLinear(r, t) c = Conv(x, w, b) y = BN(c) }"
    result, why = folded(IMAGE + text, tmp_path, **tensors, **BN)
    assert kinds(result)[-1] == "BatchNormalization"
    assert "quantized" in why


def test_a_model_that_is_quantised_throughout(tmp_path):
    """Activations too: the BatchNorm goes into the weight's scales, and into a bias that is not quantised."""
    tensors = {"q": integers(4, 6, 3, 3), "s": scales(4), "xs": np.array(0.05, np.float32), "xz": np.array(3, np.int8)}
    text = "{ i = QuantizeLinear(x, xs, xz) d = DequantizeLinear(i, xs, xz) w = DequantizeLinear<axis=0>(q, s) "
    result, _ = folded(IMAGE + text + "c = Conv(d, w) y = BN(c) }", tmp_path, **tensors, **BN)
    assert kinds(result) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]


def test_an_input_keeps_the_shape_that_it_declares(tmp_path):
    """Up to IR version 3 initializers are inputs too: one zero point for all stays one under its name."""
    text = IMAGE + "{ w = DequantizeLinear(q, s, z) c = Conv(x, w) y = BN(c) }"
    tensors = {"q": integers(4, 6, 3, 3), "s": scales(), "z": np.asarray(3, np.int8), **BN}
    proto = model(text, opset=13, ir_version=3, **tensors)
    named = {item.name for item in proto.graph.input}
    for item in proto.graph.initializer:
        if item.name not in named:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    assert fold_file(source, target, freeze_inputs=True).plan.folded
    onnx.checker.check_model(str(target), full_check=True)
    want, got = (run(path, feeds_of(proto))[0] for path in (source, target))
    assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("size", [2, 3])
def test_scales_of_blocks_are_left_alone(size, tmp_path):
    """One for each few input channels of an output channel, from opset 21 on."""
    count = (4, 6 // size, 3, 3)
    tensors = {"q": integers(4, 6, 3, 3), "s": np.random.default_rng(1).uniform(0.01, 0.02, count).astype(np.float32)}
    proto = model(
        IMAGE + f"{{ w = DequantizeLinear<axis=1, block_size={size}>(q, s) c = Conv(x, w) y = BN(c) }}",
        21,
        10,
        **tensors,
        **BN,
    )
    onnx.save(proto, tmp_path / "model.onnx")
    assert not fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx").plan.folded
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize("opset", [10, 13])
def test_before_opset_13_a_weight_has_one_scale_for_all(opset, tmp_path):
    tensors = {"q": integers(4, 6, 3, 3), "s": scales(), **BN}
    proto = model(IMAGE + "{ w = DequantizeLinear(q, s) c = Conv(x, w) y = BN(c) }", opset, **tensors)
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert len(result.plan.folded) == (opset == 13)
    onnx.checker.check_model(str(tmp_path / "folded.onnx"), full_check=True)


@pytest.mark.parametrize("axis", [0, -4, 1, -3])
def test_scales_along_an_axis_by_any_of_its_numbers(axis, tmp_path):
    text = (
        IMAGE.replace("[2,6,8,8]", "[2,4,8,8]")
        + f"{{ w = DequantizeLinear<axis={axis}>(q, s) c = Conv(x, w) y = BN(c) }}"
    )
    proto = model(text, q=integers(4, 4, 3, 3), s=scales(4), **BN)
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    result = fold_file(source, target)
    assert len(result.plan.folded) == (axis in (0, -4))
    want, got = (run(path, feeds_of(proto))[0] for path in (source, target))
    assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(("turned", "axis"), [(0, 0), (1, 1)])
def test_a_weight_on_the_left_takes_a_factor_for_each_row(turned, axis, tmp_path):
    text = "(float[6,5] x) => (float[4,5] y) { w = DequantizeLinear<axis=%d>(q, s) c = Gemm<transA=%d>(w, x) "
    text = text % (axis, turned) + "y = Mul(c, k) }"
    proto = model(text, q=integers(*((6, 4) if turned else (4, 6))), s=scales(4), k=(4, 1))
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    assert len(fold_file(source, target).plan.folded) == 1
    want, got = (run(path, feeds_of(proto))[0] for path in (source, target))
    assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_scale_that_may_be_overridden_holds_the_fold(tmp_path):
    proto = model(
        IMAGE + "{ w = DequantizeLinear(q, s) c = Conv(x, w) y = BN(c) }", q=integers(4, 6, 3, 3), s=scales(), **BN
    )
    proto.graph.input.append(onnx.helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, []))
    onnx.save(proto, tmp_path / "model.onnx")
    assert not fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx").plan.folded
    assert fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx", freeze_inputs=True).plan.folded
