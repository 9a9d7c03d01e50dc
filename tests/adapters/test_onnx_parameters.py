"""Constants that are data in ONNX files: positions that are added, tokens that are joined, tables of embeddings."""

import numpy as np
import onnx
import pytest

from bnfold.why import Why
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model, numbers

TURNED = "t = Transpose<perm=[0,2,1]>(c) n = BN(t) y = Relu(n)"
POSITIVE = batch_norm(6) | {"gamma": np.linspace(0.5, 2, 6, dtype=np.float32)}
TOKENS = "(float[N,7,4] x) => (float[N,6,7] y) "
FOLDS = [
    pytest.param(
        TOKENS + "{ m = MatMul(x, w) c = Add(m, p) " + TURNED + " }",
        {"w": (4, 6), "p": (1, 7, 6)},
        "MatMul Add Transpose Relu",
        id="positions are added",
    ),
    pytest.param(
        TOKENS + "{ m = MatMul(x, w) c = Sub(p, m) " + TURNED + " }",
        {"w": (4, 6), "p": (7, 6)},
        "MatMul Sub Transpose Relu",
        id="positions less the tokens",
    ),
    pytest.param(
        "(float[N,7,4] x) => (float[N,7,6] y) "
        "{ s = Sigmoid(x) m = Mul(s, p) n = Mul(m, k) r = Relu(n) y = MatMul(r, w) }",
        {"p": (7, 4), "w": (4, 6), "k": np.array([2.0, -1, 0.5, -3], np.float32)},
        "Sigmoid Mul Relu MatMul",
        id="a mask",
    ),
    pytest.param(
        "(float[N,7,4] x, float[N,7,6] z) => (float[N,6,7] y) { v = Sigmoid(z) c = Max(v, p) " + TURNED + " }",
        {"p": (7, 6)},
        "Sigmoid Max Transpose BatchNormalization Relu",
        id="the larger of both, which keeps the order of numbers",
    ),
    pytest.param(
        "(float[2,7,4] x) => (float[2,6,8] y) { m = MatMul(x, w) a = Add(m, b) c = Concat<axis=1>(p, a) "
        + TURNED
        + " }",
        {"w": (4, 6), "b": (6,), "p": (2, 1, 6)},
        "MatMul Add Concat Transpose Relu",
        id="tokens are joined",
    ),
    pytest.param(
        "(float[N,7,4] x) => (float[N,6,8] y) { s = Shape(x) b = Gather<axis=0>(s, zero) o = Concat<axis=0>(b, two) "
        "e = Expand(p, o) m = MatMul(x, w) a = Add(m, d) c = Concat<axis=1>(e, a) " + TURNED + " }",
        {"w": (4, 6), "d": (6,), "p": (1, 1, 6), "zero": np.array([0]), "two": np.array([1, 6])},
        "Shape Gather Concat Expand MatMul Add Concat Transpose Relu",
        id="one token for every image",
    ),
    pytest.param(
        "(bool[N,7] x) => (float[N,6,7] y) { i = Cast<to=7>(x) c = Gather<axis=0>(p, i) " + TURNED + " }",
        {"p": (5, 6)},
        "Cast Gather Transpose Relu",
        id="an embedding",
    ),
]


@pytest.mark.parametrize(("text", "tensors", "left"), FOLDS)
def test_what_is_left_beside_data(text, tensors, left, tmp_path):
    folded, _ = fold_and_check(model(text, **tensors, **batch_norm(6)), tmp_path)
    assert kinds(folded) == left.split()


def test_a_table_that_is_a_weight_too_is_copied(tmp_path):
    """Tied embeddings: the last layer multiplies by the table."""
    text = "(bool[N,7] x) => (float[N,7,5] z) { i = Cast<to=7>(x) c = Gather<axis=0>(p, i) " + TURNED
    text += " u = Transpose<perm=[0,2,1]>(y) v = Transpose<perm=[1,0]>(p) z = MatMul(u, v) }"
    proto = model(text, p=(5, 6), **batch_norm(6))
    folded, result = fold_and_check(proto, tmp_path)
    assert result.plan.kept == ()
    names = {item.name: onnx.numpy_helper.to_array(item) for item in folded.graph.initializer}
    np.testing.assert_array_equal(names["p"], numbers("p", (5, 6)))
    assert len(names) == 2


def test_minus_infinity_is_no_data(tmp_path):
    constant = np.where(np.eye(7, 6) > 0, -np.inf, 0).astype(np.float32)
    proto = model(TOKENS + "{ m = MatMul(x, w) c = Add(m, p) " + TURNED + " }", w=(4, 6), p=constant, **POSITIVE)
    _, result = fold_and_check(proto, tmp_path)
    (kept,) = result.plan.kept
    assert Why.NO_RULE in {reason.why for reason in kept.why}


def test_half_precision_that_would_overflow_is_refused(tmp_path):
    tensors = batch_norm(6, dtype="float16") | {"var": np.full(6, 1e-6, np.float16), "gamma": np.full(6, 8, np.float16)}
    text = "(bool[N,7] x) => (float16[N,6,7] y) { i = Cast<to=7>(x) c = Gather<axis=0>(p, i) " + TURNED + " }"
    proto = model(text, p=np.full((5, 6), 3e4, np.float16), **tensors)
    _, result = fold_and_check(proto, tmp_path)
    (kept,) = result.plan.kept
    assert Why.OVERFLOW in {reason.why for reason in kept.why}
