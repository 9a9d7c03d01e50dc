"""ONNX files at the edges of what the rules assume: either nothing is folded, or the outputs stay the same."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from bnfold import fold
from tests.adapters.onnx_cases import batch_norm, fold_and_check, model, numbers

W: Mapping[str, object] = {"w": (4, 3, 3, 3)}
BN = batch_norm(4)
IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
TOKENS = "(float[N,5,8] x) => (float[N,5,8] y)"
MASK = np.array([0, 1, 1, 1, 1, 1, 1, 0], np.float32)  # but for the dead channels it is the identity
POOLS = ("MaxPool<kernel_shape=[3], pads=[1,1]>", "AveragePool<kernel_shape=[3], pads=[1,1]>")


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("mask", [MASK, MASK * numbers("m", (8,))], ids=["mask", "scale"])
def test_a_dead_channel_that_a_pooling_mixes_with_others_stays(tmp_path, pool, mask):
    text = TOKENS + "{ a = MatMul(x, v) h = Add(a, b) p = " + pool + "(h) y = Mul(p, m) }"
    _, result = fold_and_check(model(text, v=(8, 8), b=(8,), m=mask), tmp_path)
    assert not result.plan.folded


@pytest.mark.parametrize("level", ["default", "max"])
def test_a_clip_with_crossed_bounds_is_not_moved(tmp_path, level):
    bounds = {"lo": np.array(1, np.float32), "hi": np.array(-1, np.float32)}
    proto = model(IMAGE + "{ c = Conv(x, w) d = Clip(c, lo, hi) y = BN(d) }", **W, **BN, **bounds)
    assert not fold_and_check(proto, tmp_path, level=level)[1].plan.folded


@pytest.mark.parametrize("declared", ["float[]", "float[N,7]", "float[N,4,9,9]", "float[9,4,h,w]"])
def test_the_shape_that_a_file_declares_for_its_output_is_not_believed(tmp_path, declared):
    text = IMAGE + "{ c = Conv(x, w) d = BN(c) y = Relu(d) }"
    proto = model(text.replace("float[N,4,h,w]", declared), **W, **BN)
    result = fold(proto)
    assert [outcome.affine for outcome in result.plan.folded] == ["d"]


@pytest.mark.parametrize(
    "body",
    [
        "v = Tanh(carry) w1 = MatMul(v, w) out = Add(w1, b)",
        "v = Tanh(carry) out = MatMul(v, w)",
        "v = Tanh(carry) out = Gemm(v, w, b)",
        'v = Tanh(carry) out = Einsum<equation="ai,io->ao">(v, w)',
        "v = Mul(carry, b) w1 = MatMul(v, w) out = Add(w1, b)",
    ],
)
def test_weights_on_values_of_unknown_rank_stay_as_they_are(body, tmp_path):
    proto = model(
        f"""(float[2,4] x) => (float[2,4] y) {{
            n = BN(x) l = Loop<body = body (int64 i, bool c, float carry) => (bool d, float out) {{
                d = Identity(c) {body} }}>(trips, go, n)
            m = MatMul(l, w) y = Add(m, b) }}""",
        w=(4, 4),
        b=(4,),
        trips=np.array(2, np.int64),
        go=np.array(True),
        **batch_norm(4),
    )
    for item in proto.graph.node[1].attribute[0].g.input:
        if item.name == "carry":
            item.type.tensor_type.ClearField("shape")
    proto.graph.node[1].attribute[0].g.output[1].type.tensor_type.ClearField("shape")
    fold_and_check(proto, tmp_path)


def test_new_constants_of_a_branch_in_an_old_file_are_inputs_of_the_model(tmp_path):
    proto = model(
        """(float[2,3,6,6] x, bool flag) => (float[2,4,6,6] y) {
            y = If(flag)<then_branch = a () => (float[2,4,6,6] p) { c = Conv(x, w) p = BN(c) },
                         else_branch = e () => (float[2,4,6,6] q) { q = Conv(x, w) }> }""",
        11,
        3,
        w=(4, 3, 1, 1),
        **batch_norm(4),
    )
    for item in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    folded, result = fold_and_check(proto, tmp_path, freeze_inputs=True)
    assert result.plan.folded
    assert {item.name for item in folded.graph.initializer} <= {item.name for item in folded.graph.input}


def test_what_is_taken_from_itself_has_no_moments(tmp_path):
    proto = model(
        "(float16[2,3,6,6] x) => (float16[2,4,6,6] y, float16[2,3,6,6] z) { z = Sub(x, x) c = Conv(x, w) y = BN(c) }",
        w=numbers("w", (4, 3, 1, 1), "float16"),
        **batch_norm(4, dtype="float16"),
    )
    assert fold_and_check(proto, tmp_path)[1].plan.folded


def test_double_weights_between_two_affines_pass_the_audit(tmp_path):
    """Both the fold and its audit round in float64, in another order: they are a few ULP apart."""
    constants = {**batch_norm(48, "1", "float64"), **batch_norm(48, "2", "float64")}
    proto = model(
        "(double[2,48] x) => (double[2,48] y) { a = BN(x, 1) m = MatMul(a, w) y = BN(m, 2) }",
        w=numbers("w", (48, 48), "float64"),
        **constants,
    )
    assert len(fold_and_check(proto, tmp_path)[1].plan.folded) == 2


def test_a_matmul_in_a_loop_takes_what_is_behind_it(tmp_path):
    """Inference inside of a body does not see outer constants in older opsets: it loses the rank of `s`."""
    proto = model(
        """(float[2,4] x) => (float[2,4] y) {
            y = Loop<body = body (int64 i, bool c, float[2,4] carry) => (bool d, float[2,4] out) {
                d = Identity(c) r = Reshape(b, four) s = Sub(carry, r) m = MatMul(s, w) n = BN(m)
                out = Tanh(n) }>(trips, go, x) }""",
        13,
        w=(4, 4),
        b=(4,),
        four=np.array([4], np.int64),
        trips=np.array(2, np.int64),
        go=np.array(True),
        **batch_norm(4),
    )
    proto.graph.node[0].attribute[0].g.output[1].type.tensor_type.ClearField("shape")
    assert fold_and_check(proto, tmp_path)[1].plan.folded


def test_a_scale_that_is_computed_of_one_length_of_a_shape(tmp_path):
    """As attention computes it: NumPy makes a scalar, no array, of a number without axes."""
    text = IMAGE.replace("N", "2") + "{ f = Shape(x) n = Gather(f, one) s = Cast<to=1>(n) q = Sqrt(s)"
    text += "c = Conv(x, w) d = Div(c, q) y = BN(d) }"
    _, result = fold_and_check(model(text, one=np.array(1), **W, **BN), tmp_path)
    assert [outcome.affine for outcome in result.plan.folded] == ["d", "y"]
