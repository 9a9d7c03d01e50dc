"""Names, sharing, subgraphs and everything else that a fold of an ONNX file must leave as it was."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import helper, numpy_helper

from bnfold.adapters.onnx_file import fold_file, fold_proto
from tests.adapters.onnx_cases import batch_norm, feeds_of, fold_and_check, kinds, model, numbers, run

IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
TWO = "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z)"
W = {"w": (4, 3, 3, 3)}
BN = batch_norm(4)


def arrays(proto):
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def test_a_shared_weight_is_cloned_for_the_node_that_changes(tmp_path):
    proto = model(TWO + "{ c = Conv(x, w) y = BN(c) z = Conv(x, w) }", **W, **BN)
    folded, _ = fold_and_check(proto, tmp_path)
    assert folded.graph.node[1].input[1] == "w"
    assert folded.graph.node[0].input[1] != "w"
    assert np.array_equal(arrays(folded)["w"], arrays(proto)["w"])


def test_a_shared_weight_whose_readers_agree_is_changed_once(tmp_path):
    text = "(float[N,3,8,8] x, float[N,3,8,8] u) => (float[N,4,6,6] y, float[N,4,6,6] z)"
    proto = model(text + "{ c = Conv(x, w) y = BN(c) d = Conv(u, w) z = BN(d) }", **W, **BN)
    folded, _ = fold_and_check(proto, tmp_path)
    assert folded.graph.node[0].input[1] == folded.graph.node[1].input[1] == "w"


def test_a_weight_that_is_also_an_output_is_cloned(tmp_path):
    text = "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[4,3,3,3] w)"
    folded, _ = fold_and_check(model(text + "{ c = Conv(x, w) y = BN(c) }", **W, **BN), tmp_path)
    assert kinds(folded) == ["Conv"]
    assert len(folded.graph.initializer) == 3


def test_statistics_that_others_read_stay(tmp_path):
    text = "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[4] z)"
    folded, _ = fold_and_check(model(text + "{ c = Conv(x, w) y = BN(c) z = Tanh(mean) }", **W, **BN), tmp_path)
    assert set(arrays(folded)) == {"w", "mean", "c.bias"}


def test_an_affine_between_two_outputs_stays(tmp_path):
    proto = model(TWO + "{ y = Conv(x, w) z = BN(y) }", **W, **BN)
    folded, result = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "BatchNormalization"]
    assert result.plan.kept


def test_an_identity_between_two_outputs_keeps_both_names(tmp_path):
    proto = model(TWO + "{ y = Conv(x, w) z = Mul(y, one) }", **W, one=np.ones((4, 1, 1), np.float32))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) in (["Conv", "Identity"], ["Conv", "Mul"])


def test_names_may_be_missing_or_repeated(tmp_path):
    proto = model(
        IMAGE + "{ c = Conv(x, w) n = BN(c) d = Conv(n, v) y = BN(d, 2) }",
        v=(4, 4, 1, 1),
        **W,
        **BN,
        **batch_norm(4, "2"),
    )
    for node, name in zip(proto.graph.node, ("same", "same", "", ""), strict=True):
        node.name = name
    result = fold_proto(proto)
    assert kinds(result.model) == ["Conv", "Conv"]
    assert [outcome.affine for outcome in result.plan.folded] == ["same#2", "y"]
    assert [node.name for node in result.model.graph.node] == ["same", ""]


def test_new_names_avoid_those_that_are_there(tmp_path):
    proto = model(
        TWO + "{ c = Conv(x, w) y = BN(c) d = Add(c_bias, y) z = Conv(x, w) }".replace("d = Add(c_bias, y) ", ""),
        **W,
        **BN,
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "w_folded"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "c.bias"))
    folded, _ = fold_and_check(proto, tmp_path)
    assert np.array_equal(arrays(folded)["w_folded"], np.ones(7))
    assert np.array_equal(arrays(folded)["c.bias"], np.ones(7))


def test_what_is_not_touched_stays_bit_for_bit(tmp_path):
    proto = model(
        IMAGE + "{ c = Conv(x, w) n = BN(c) r = Relu(n) s = Tanh(r) y = Mul(s, k) }", k=(1, 4, 6, 6), **W, **BN
    )
    proto.doc_string, proto.producer_name, proto.model_version = "A model.", "somebody", 7
    helper.set_model_props(proto, {"author": "somebody", "classes": "cat,dog"})
    proto.graph.doc_string = "A graph."
    proto.graph.node[2].doc_string = "A node."
    proto.graph.initializer.insert(0, numpy_helper.from_array(np.arange(5), "unused"))
    proto.graph.initializer[2].doc_string = "A weight."
    proto.opset_import.append(helper.make_opsetid("com.example", 3))
    for name in ("c", "n", "r", "s"):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4, 6, 6]))
    folded, _ = fold_and_check(proto, tmp_path)
    expected = onnx.ModelProto()
    expected.CopyFrom(proto)
    del expected.graph.node[1]
    expected.graph.node[0].input.append("c.bias")
    expected.graph.node[0].output[0] = "n"
    del expected.graph.initializer[:]
    expected.graph.initializer.extend(
        [proto.graph.initializer[0], proto.graph.initializer[1], folded.graph.initializer[2]]
    )
    expected.graph.initializer.append(folded.graph.initializer[3])
    del expected.graph.value_info[0]
    assert [item.name for item in folded.graph.initializer] == ["unused", "k", "w", "c.bias"]
    assert folded.graph.initializer[2].doc_string == "A weight."
    assert folded == expected


def test_fields_that_onnx_does_not_know_stay(tmp_path):
    data = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN).SerializeToString()
    unknown = bytes.fromhex("fa3e03616263")  # field 1007, three bytes
    (tmp_path / "model.onnx").write_bytes(data + unknown)
    assert fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx").plan.folded
    assert (tmp_path / "folded.onnx").read_bytes().endswith(unknown)


def test_a_proto_is_folded_like_a_file(tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN)
    before = proto.SerializeToString()
    folded, _ = fold_and_check(proto, tmp_path)
    assert fold_proto(proto).model == folded
    assert proto.SerializeToString() == before


def test_dynamic_shapes(tmp_path):
    text = """(float[batch,3,height,width] x) => (float[batch,4] y) {
      c = Conv<pads=[1,1,1,1]>(x, w) p = GlobalAveragePool(c) shape = Shape(p) n = Gather(shape, zero)
      m = Unsqueeze(n, zero1) t = Concat<axis=0>(m, minus) f = Reshape(p, t) y = BN(f) }"""
    proto = model(text, **W, **BN, zero=np.array(0), zero1=np.array([0]), minus=np.array([-1]))
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    feeds = {"x": numbers("x", (2, 3, 9, 5))}
    got, wanted = (run(tmp_path / name, feeds)[0] for name in ("folded.onnx", "model.onnx"))
    assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert [type(outcome).__name__ for outcome in result.plan.outcomes]


# Subgraphs.

BODY = """(bool[1] flag, float[N,3,8,8] x) => (float[N,4,6,6] y) {
  one = Conv(x, w0)
  cond = Reshape(flag, none)
  y = If(cond) <
    then_branch = then () => (float[N,4,6,6] a) { k = Conv(x, w) a = BN(k) },
    else_branch = other () => (float[N,4,6,6] b) { k2 = BN(one) r = Relu(k2) b = Conv<pads=[1,1,1,1]>(r, v) }
  >
}"""


def test_bodies_are_folded_inside_and_what_they_capture_too(tmp_path):
    tensors = {"w": (4, 3, 3, 3), "w0": (4, 3, 3, 3), "v": (4, 4, 3, 3), "none": np.array([], np.int64)}
    proto = model(BODY, **tensors, **BN)
    for flag in (True, False):
        source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
        onnx.save(proto, source)
        result = fold_file(source, target)
        feeds = feeds_of(proto) | {"flag": np.array([flag])}
        for got, wanted in zip(run(target, feeds), run(source, feeds), strict=True):
            assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    folded = onnx.load(target)
    onnx.checker.check_model(folded, full_check=True)
    branches = {item.name: [node.op_type for node in item.g.node] for item in folded.graph.node[-1].attribute}
    assert branches == {"then_branch": ["Conv"], "else_branch": ["Relu", "Conv"]}
    assert len(result.plan.folded) == 2


def test_a_new_tensor_that_a_body_and_the_graph_around_it_read_is_the_graph_s(tmp_path):
    text = """(bool[1] flag, float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z, float[N,3,8,8] u) {
      s = Mul(x, h)  cond = Reshape(flag, none)
      y = If(cond) < then_branch = then () => (float[N,3,8,8] a) { a = BN(s) },
                     else_branch = other () => (float[N,3,8,8] b) { b = Add(s, h) } >
      z = BN(s, 2)  r = Relu(x)  u = BN(r)
    }"""
    tensors = {**batch_norm(3), **batch_norm(3, "2")}
    text = text.replace("BN(s, 2)", "BatchNormalization(s, gamma2, beta2, mean, var2)")
    proto = model(text, **{k: v for k, v in tensors.items() if k != "mean2"}, h=(3, 1, 1), none=np.array([], np.int64))
    onnx.save(proto, tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    folded = onnx.load(tmp_path / "folded.onnx")
    onnx.checker.check_model(folded, full_check=True)
    for flag in (True, False):
        feeds = feeds_of(proto) | {"flag": np.array([flag])}
        got, wanted = (run(tmp_path / name, feeds) for name in ("folded.onnx", "model.onnx"))
        for one, other in zip(got, wanted, strict=True):
            assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
    assert "mean_folded" in {item.name for item in folded.graph.initializer}


def test_weights_inside_a_body(tmp_path):
    proto = model(
        """(int64 n, float[N,4,8,8] x) => (float[N,4,8,8] y) {
          y = Loop(n, yes, x) <body = body (int64 i, bool c, float[N,4,8,8] s) => (bool more, float[N,4,8,8] t) {
            w = Constant<value_floats=[1.0, 2.0, -3.0, 4.0]>() ww = Reshape(w, shape)
            k = Conv<group=4>(s, ww) b = BN(k) t = Relu(b) more = Identity(c) }>
        }""",
        shape=np.array([4, 1, 1, 1]),
        yes=np.array(True),
        **BN,
    )
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert len(result.plan.folded) == 1
    feeds = {"n": np.array(3), "x": numbers("x", (2, 4, 8, 8))}
    got, wanted = (run(tmp_path / name, feeds)[0] for name in ("folded.onnx", "model.onnx"))
    assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    folded = onnx.load(tmp_path / "folded.onnx")
    onnx.checker.check_model(folded, full_check=True)
    assert [node.op_type for node in folded.graph.node[0].attribute[0].g.node] == ["Conv", "Relu", "Identity"]


# Quantised weights.


def quantised(axis=0, scales=4, zero=True, extra=""):
    q = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    tensors = {
        "q": q,
        "s": np.asarray(np.random.default_rng(1).uniform(0.01, 0.02, scales if scales > 1 else ()), np.float32),
    }
    operands = "q, s"
    if zero:
        operands, tensors["z"] = "q, s, z", np.zeros(scales if scales > 1 else (), np.int8)
    text = f"{{ w = DequantizeLinear<axis={axis}>({operands}) c = Conv(x, w) y = BN(c) {extra} }}"
    return text, tensors | BN


@pytest.mark.parametrize("scales", [1, 4])
@pytest.mark.parametrize("zero", [True, False])
def test_a_fold_goes_into_the_scale_of_a_quantised_weight(scales, zero, tmp_path):
    text, tensors = quantised(scales=scales, zero=zero)
    proto = model(IMAGE + text, **tensors)
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["DequantizeLinear", "Conv"]
    assert np.array_equal(arrays(folded)["q"], tensors["q"])
    assert arrays(folded)["s"].shape == (4,)


@pytest.mark.parametrize("case", ["shared", "before"])
def test_a_quantised_weight_that_can_not_take_the_fold(case, tmp_path):
    if case == "shared":
        text, tensors = quantised(extra="z2 = Conv(x, w)")
        proto = model(TWO.replace("] z)", "] z2)") + text, **tensors)
    else:
        _, tensors = quantised()
        tensors |= batch_norm(3)
        proto = model(IMAGE + "{ n = BN(x) w = DequantizeLinear<axis=0>(q, s, z) y = Conv(n, w) }", **tensors)
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert not result.plan.folded
    assert {"quantized", "shared"} & {reason.why.code for kept in result.plan.kept for reason in kept.why}
