"""Models that are well-formed and make no sense, or less than they seem to: one line, or a fold that is right."""

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfold.adapters.onnx_file import fold_file
from bnfold.errors import BnfoldError
from tests.adapters.onnx_cases import batch_norm, fold_and_check, model

IMAGE = "(float[N,3,8,8] x) => (float[a,b,c,d] y) "
W = {"w": (4, 3, 3, 3)}
BN = batch_norm(4)


def whole(*numbers):
    return np.array(numbers, np.int64)


def fold(proto, folder):
    source, target = folder / "model.onnx", folder / "folded.onnx"
    source.write_bytes(proto.SerializeToString())
    return fold_file(source, target).plan


REFUSED = {
    "a row that isn't there": ("g = Gather(w, i) c = Conv(x, g) y = BN(c)", {"i": whole(0, 1, 2, 9)}),
    "more bounds than axes": ("g = Slice(w, i, j) c = Conv(x, g) y = BN(c)", {"i": whole(0), "j": whole(4, 3)}),
    "scales of another number": (
        "g = DequantizeLinear<axis=0>(q, s) c = Conv(x, g) n = BN(c) m = Sub(x, k) e = Conv(m, g) y = Add(n, e)",
        {"q": np.ones((4, 3, 3, 3), np.int8), "s": np.ones(3, np.float32), "k": (3, 1, 1)},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_constants_that_do_not_fit_are_refused_in_one_line(name, tmp_path):
    text, tensors = REFUSED[name]
    with pytest.raises(BnfoldError) as caught:
        fold(model(f"{IMAGE}{{ {text} }}", **W, **BN, **tensors), tmp_path)
    assert caught.value.exit_status == 2
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "folded.onnx").exists()


def changed(node, name, value):
    node.attribute.append(helper.make_attribute(name, value))


@pytest.mark.parametrize("step", ["Squeeze(w, i)", "Reshape(w, j)", "Transpose<perm=[0,1,2,7]>(w)"])
def test_constants_that_onnx_infers_nothing_of_are_left_alone(step, tmp_path):
    tensors = {"i": whole(0), "j": whole(5, 3, 3, 3)}
    used = {name: array for name, array in tensors.items() if f" {name})" in step}
    plan = fold(model(f"{IMAGE}{{ g = {step} c = Conv(x, g) y = BN(c) }}", **W, **BN, **used), tmp_path)
    assert not plan.folded
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


LEFT = {
    "statistics of other lengths": ("{ c = Conv(x, w) y = BN(c) }", lambda p: p.graph.initializer[2].CopyFrom(_of(3))),
    "statistics of another rank": (
        "{ c = Conv(x, w) y = BN(c) }",
        lambda p: [item.dims.insert(0, 1) for item in p.graph.initializer[1:]],
    ),
    "an infinite epsilon": ("{ c = Conv(x, w) y = BN(c) }", lambda p: changed(p.graph.node[1], "epsilon", np.inf)),
}


def _of(count):
    return onnx.numpy_helper.from_array(np.ones(count, np.float32), "beta")


@pytest.mark.parametrize("name", LEFT)
def test_a_batch_norm_that_is_none_stays(name, tmp_path):
    text, change = LEFT[name]
    proto = model(IMAGE + text, **W, **BN)
    change(proto)
    (kept,) = fold(proto, tmp_path).kept
    assert [reason.why.code for reason in kept.why] == ["malformed"]
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_a_bias_of_another_length_stays(tmp_path):
    proto = model("(float[2,6] x) => (float[2,4] y) { c = Gemm(x, w, b) y = BN(c) }", w=(6, 4), b=(6,), **BN)
    (kept,) = fold(proto, tmp_path).kept
    assert "malformed" in [reason.why.code for reason in kept.why]


@pytest.mark.parametrize("text", ["p = PRelu(k, x) n = BN(p)", "e = Cast<to=1>(k) p = PRelu(e, x) n = BN(p)"])
def test_a_constant_in_the_place_of_the_data(text, tmp_path):
    proto = model(f"(float[1,4,1,1] x) => (float[1,4,1,1] y) {{ {text} y = Relu(n) }}", k=(1, 4, 1, 1), **BN)
    fold_and_check(proto, tmp_path)


@pytest.mark.parametrize("text", ["n = BN(x) y = Transpose<perm=[0,1]>(n)", "n = BN(x) m = MatMul(n, x) y = Relu(m)"])
def test_nodes_of_unlikely_operands_stay(text, tmp_path):
    proto = model(f"(float[1,4,2,2] x) => (float[a,b,c,d] y) {{ {text} }}", **BN)
    if "MatMul" in text:
        proto.graph.node[1].input[1] = ""
    assert not fold(proto, tmp_path).folded
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_channels_that_do_not_add_up(tmp_path):
    text = """(float[N,4,8] x) => (float[a,b,c] y) {
        n = BN(x) k = Concat<axis=1>(n, x) m = BN(k) y = Relu(m) }"""
    plan = fold(model(text, **BN), tmp_path)
    assert not plan.folded
    text = "(float[N,4,8] x) => (float[N,3,8] y, float[N,3,8] z) { n = BN(x) y, z = Split<axis=1>(n, parts) }"
    plan = fold(model(text, parts=whole(3, 3), **BN), tmp_path)
    assert not plan.folded


def test_a_nan_that_no_fold_touches(tmp_path):
    nan = np.array([1, np.nan, 2, 3], np.float32)
    proto = model(
        IMAGE + "{ c = Conv(x, w) n = BN(c) r = Relu(n) y = Conv(r, v, b) }", v=(4, 4, 1, 1), b=nan, **W, **BN
    )
    assert [outcome.affine for outcome in fold(proto, tmp_path).folded] == ["n"]
    proto = model(IMAGE + "{ y = Conv(x, w, b) }", b=nan, **W)
    assert not fold(proto, tmp_path).edits


def test_our_own_failures_are_not_put_down_to_a_valid_model(tmp_path, monkeypatch):
    from bnfold.adapters import onnx_file

    def broken(graph):
        raise KeyError("ours")

    monkeypatch.setattr(onnx_file, "raised_for_onnx", broken)
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN)
    with pytest.raises(KeyError, match="ours"):
        fold(proto, tmp_path)
    proto.graph.node[0].input[1] = "gamma"
    with pytest.raises(BnfoldError, match=r"model\.onnx: is no valid ONNX model \(.*Conv"):
        fold(proto, tmp_path)
