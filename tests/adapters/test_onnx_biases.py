"""MatMul and Einsum are given a bias by an Add of their own, where an affine goes for it."""

import numpy as np
import pytest

from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model

TOKENS = "(float[2,5,6] x) => (float[2,5,4] y) "
COLUMNS = "(float[2,6,5] x) => (float[2,4,5] y) "
ROW = {"w": (6, 4), "s": (4,), "b": (4,), "d": (4,)}
COLUMN = {"w": (6, 4), "s": (4, 1), "b": (4, 1), "d": (4, 1)}
EINSUM = 'c = Einsum<equation="nit,io->not">(x, w) '
BN = {"w": (6, 4), **batch_norm(4)}

FOLDS = [
    pytest.param(TOKENS + "{ c = MatMul(x, w) m = Mul(c, s) y = Add(m, b) }", ROW, "MatMul Add", id="mul add"),
    pytest.param(TOKENS + "{ c = MatMul(x, w) m = Mul(c, s) y = Add(b, m) }", ROW, "MatMul Add", id="add swapped"),
    pytest.param(TOKENS + "{ c = MatMul(x, w) m = Sub(c, b) y = Mul(m, s) }", ROW, "MatMul Add", id="sub mul"),
    pytest.param(
        TOKENS + "{ c = MatMul(x, w) k = Sub(c, b) l = Div(k, s) m = Mul(l, d) y = Add(m, s) }",
        ROW,
        "MatMul Add",
        id="sub div mul add",
    ),
    pytest.param(
        TOKENS + "{ c = MatMul(x, w) a = Add(c, d) m = Mul(a, s) y = Add(m, b) }", ROW, "MatMul Add", id="its own add"
    ),
    pytest.param(
        COLUMNS + "{ t = Transpose<perm=[0,2,1]>(x) c = MatMul(t, w) u = Transpose<perm=[0,2,1]>(c) y = BN(u) }",
        BN,
        "Transpose MatMul Add Transpose",
        id="layout between",
    ),
    pytest.param(COLUMNS + "{ c = MatMul(v, x) y = BN(c) }", {**BN, "v": (4, 6)}, "MatMul Add", id="constant first"),
    pytest.param(
        TOKENS + "{ m = Mul(x, k) n = Add(m, l) y = MatMul(n, w) }",
        {"w": (6, 4), "k": (6,), "l": (6,)},
        "MatMul Add",
        id="affine before",
    ),
    pytest.param(
        TOKENS + "{ d = Div(x, k) m = Mul(d, k) n = Add(m, l) y = MatMul(n, w) }",
        {"w": (6, 4), "k": np.array([0.5, 2, -4, 1, 8, -1], np.float32), "l": (6,)},
        "MatMul Add",
        id="a shift in three steps before",
    ),
    pytest.param(
        "(float[2,4,5] x) => (float[2,5,6] y) "
        "{ r = Relu(x) b = BN(r) t = Transpose<perm=[0,2,1]>(b) y = MatMul(t, v) }",
        {"v": (4, 6), **batch_norm(4)},
        "Relu Transpose MatMul Add",
        id="layout between, before",
    ),
    pytest.param(
        "(float[2,6,5] x) => (float[2,3,5] y) { "
        + EINSUM
        + "m = Mul(c, s) a = Add(m, b) y = Conv<kernel_shape=[1]>(a, v) }",
        {**COLUMN, "v": (3, 4, 1)},
        "Einsum Conv",
        id="a shift that the next layer's bias takes",
    ),
    pytest.param(COLUMNS + "{ " + EINSUM + "y = BN(c) }", BN, "Einsum Add", id="einsum bn"),
    pytest.param(COLUMNS + "{ " + EINSUM + "m = Mul(c, s) y = Add(m, b) }", COLUMN, "Einsum Add", id="einsum mul add"),
    pytest.param(COLUMNS + "{ " + EINSUM + "a = Add(c, d) y = BN(a) }", {**BN, "d": (4, 1)}, "Einsum Add", id="add bn"),
]
KEEPS = [
    pytest.param(
        "(float[2,5,6] x) => (float[2,5,4] y, float[2,5,4] z) "
        "{ m = Mul(x, k) n = Add(m, l) y = MatMul(n, w) z = MatMul(n, v) }",
        {"w": (6, 4), "v": (6, 4), "k": (6,), "l": (6,)},
        "Mul Add MatMul MatMul",
        id="two that would each need one",
    ),
    pytest.param(
        "(float[2,5,6] x) => (float[2,5,4] y, float[2,5,4] c) { c = MatMul(x, w) m = Mul(c, s) y = Add(m, b) }",
        ROW,
        "MatMul Mul Add",
        id="also an output",
    ),
    pytest.param(COLUMNS + "{ " + EINSUM + "y = Add(c, d) }", COLUMN, "Einsum Add", id="nothing but an add"),
    pytest.param(
        '(float[2,5,6] x) => (float[2,5,4] y, float[2,5,4] z) { c = Einsum<equation="nti,io->nto">(x, w) a = Add(c, b) '
        'y = Div(a, s) z = Einsum<equation="nti,io->nto">(a, v) }',
        {**ROW, "v": (4, 4)},
        "Einsum Add Einsum",
        id="an add that has to stay one",
    ),
    pytest.param(
        '(float[2,6] x) => (float[2,4] z) { c = Einsum<equation="ni,io->no">(x, w) '
        "b = BN(c) y = MatMul(b, v) z = Add(y, d) }",
        {**BN, "gamma": np.array([1, 0, -2, 0.5], np.float32), "v": (4, 4), "d": (4,)},
        "Einsum MatMul Add",
        id="no bias for a channel that is nothing",
    ),
]


@pytest.mark.parametrize(("text", "tensors", "left"), FOLDS + KEEPS)
def test_what_is_left(text, tensors, left, tmp_path):
    folded, _ = fold_and_check(model(text, **{k: v for k, v in tensors.items() if used(k, text)}), tmp_path)
    assert kinds(folded) == left.split()


def used(name, text):
    return name in ("gamma", "beta", "mean", "var") or f"{name})" in text or f", {name}" in text or f"({name}," in text


def test_the_operators_never_become_more(tmp_path):
    """The sum would let one BatchNorm's shift go into either MatMul; the one with the affine of its own takes it."""
    text = "(float[2,5,6] x, float[2,5,6] u) => (float[2,5,4] y) "
    text += "{ c = MatMul(x, w) d = MatMul(u, v) m = Mul(c, s) p = Mul(d, s) a = Add(m, p) y = Add(a, b) }"
    folded, _ = fold_and_check(model(text, w=(6, 4), v=(6, 4), s=(4,), b=(4,)), tmp_path)
    assert len(kinds(folded)) <= 4


def test_a_bias_whose_shape_somebody_may_override_is_a_bias(tmp_path):
    """The runtime could get another `k`, so that the file doesn't tell what `r` is; the shapes of its values do."""
    text = "(float[2,6,4] x, int64[2] k) => (float[2,3,4] y) "
    text += "{ a = Add(x, s) c = MatMul(w, a) r = Reshape(b, k) y = Add(c, r) }"
    proto = model(text, w=(3, 6), s=(6, 1), b=(3,), k=np.array([3, 1]))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["MatMul", "Add"]


def test_an_add_that_a_fold_made_is_a_bias_to_the_next_one(tmp_path):
    """Taken for an affine, it would go on through the clip, to the layer behind that has a bias now."""
    text = (
        '(float[2,5,6] x) => (float[2,5,3] y) { c = Einsum<equation="nti,io->nto">(x, w) m = Mul(c, s) a = Add(m, b) '
    )
    text += "l = Clip(a, low, high) e = MatMul(l, v) g = Mul(e, k) y = Add(g, h) }"
    bounds = {"low": np.array(-0.5, np.float32), "high": np.array(1, np.float32)}
    proto = model(text, w=(6, 4), s=np.array([2, 0.5, 1, 3], np.float32), b=(4,), v=(4, 3), k=(3,), h=(3,), **bounds)
    folded, _ = fold_and_check(proto, tmp_path, level="max")
    assert kinds(folded) == ["Einsum", "Add", "Clip", "MatMul", "Add"]
