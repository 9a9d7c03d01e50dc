"""ONNX patterns: the forms that an affine has, and where its constants come from."""

import numpy as np

from pattern_suite.onnx_building import bn, case, ints
from pattern_suite.onnx_linear import COLUMN, IMAGE, ROWS, TOKENS, B, M, W

FORMS = "affines as arithmetic"

case(FORMS, "Conv, Mul", IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", W, {"s": COLUMN})
case(FORMS, "Conv, Mul by (1, C, 1, 1)", IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", W, {"s": (1, 4, 1, 1)})
case(FORMS, "Conv, Mul with the constant first", IMAGE + "{ c = Conv(x, w) y = Mul(s, c) }", W, {"s": COLUMN})
case(FORMS, "Conv, Add", IMAGE + "{ c = Conv(x, w, b) y = Add(c, t) }", W, B, {"t": COLUMN})
case(FORMS, "Conv, Add with the constant first", IMAGE + "{ c = Conv(x, w) y = Add(t, c) }", W, {"t": COLUMN})
case(FORMS, "Conv, Sub", IMAGE + "{ c = Conv(x, w) y = Sub(c, t) }", W, {"t": COLUMN})
case(FORMS, "constant minus Conv", IMAGE + "{ c = Conv(x, w, b) y = Sub(t, c) }", W, B, {"t": COLUMN})
case(FORMS, "Conv, Div", IMAGE + "{ c = Conv(x, w) y = Div(c, s) }", W, {"s": COLUMN})
case(
    FORMS,
    "constant divided by Conv",
    IMAGE + "{ c = Conv(x, w) y = Div(s, c) }",
    W,
    {"s": COLUMN},
    least=1,
    note="no affine of the Conv",
)
case(FORMS, "Conv, Mul, Add", IMAGE + "{ c = Conv(x, w) d = Mul(c, s) y = Add(d, t) }", W, {"s": COLUMN, "t": COLUMN})
case(
    FORMS,
    "Conv, Mul and Add, constants first",
    IMAGE + "{ c = Conv(x, w) d = Mul(s, c) y = Add(t, d) }",
    W,
    {"s": COLUMN, "t": COLUMN},
)
case(
    FORMS,
    "Conv, Sub, Div, Mul, Add",
    IMAGE + "{ c = Conv(x, w) d = Sub(c, m) e = Div(d, var) f = Mul(e, s) y = Add(f, t)}",
    W,
    {"m": COLUMN, "var": COLUMN, "s": COLUMN, "t": COLUMN},
)
case(
    FORMS,
    "Conv, BN decomposed to Sqrt and Reciprocal",
    IMAGE + "{ e = Add(var, small) r = Sqrt(e) q = Reciprocal(r)"
    " c = Conv(x, w) d = Sub(c, m) f = Mul(d, q) g = Mul(f, s) y = Add(g, t) }",
    W,
    {"var": COLUMN, "small": np.array(1e-5, np.float32), "m": COLUMN, "s": COLUMN, "t": COLUMN},
)
case(FORMS, "Conv, Mul by one number", IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", W, {"s": ()})
case(FORMS, "Conv, Add of one number", IMAGE + "{ c = Conv(x, w) y = Add(c, t) }", W, {"t": ()})
case(FORMS, "Conv, Mul by (1, 1, 1, 1)", IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", W, {"s": (1, 1, 1, 1)})
case(
    FORMS,
    "Conv, Mul by (1, 1, 1, 1, 1)",
    "(float[N,3,8,8] x) => (float[1,N,4,h,w] y) { c = Conv(x, w) y = Mul(c, s) }",
    W,
    {"s": (1, 1, 1, 1, 1)},
    least=1,
    note="the output has one more axis, which an operator must make",
)
case(
    FORMS,
    "Conv, Mul by a map of the width",
    IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }",
    W,
    {"s": (6,)},
    least=1,
    note="not one factor a channel",
)
case(
    FORMS,
    "Conv, Mul by a map of the width, W == C",
    "(float[N,3,6,6] x) => (float[N,4,4,4] y){ c = Conv(x, w) y = Mul(c, s) }",
    W,
    {"s": (4,)},
    least=1,
    note="not one factor a channel",
)
case(
    FORMS,
    "Conv, Mul by a map of the height, H == C",
    "(float[N,3,6,6] x) => (float[N,4,4,4] y){ c = Conv(x, w) y = Mul(c, s) }",
    W,
    {"s": (4, 1)},
    least=1,
    note="not one factor a channel",
)
case(
    FORMS,
    "Conv, Mul by a number for each sample, N == C",
    "(float[4,3,6,6] x) => (float[4,4,4,4] y){ c = Conv(x, w) y = Mul(c, s) }",
    W,
    {"s": (4, 1, 1, 1)},
    least=1,
    note="not one factor a channel",
)
case(
    FORMS,
    "Conv, Add of a map of the width, W == C",
    "(float[N,3,6,6] x) => (float[N,4,4,4] y){ c = Conv(x, w) y = Add(c, t) }",
    W,
    {"t": (4,)},
    least=1,
    note="not one shift a channel",
)
case(FORMS, "Gemm, Mul", ROWS + "{ c = Gemm(x, w, b) y = Mul(c, s) }", M, B, {"s": (4,)})
case(FORMS, "Gemm, Mul, Add", ROWS + "{ c = Gemm(x, w, b) d = Mul(c, s) y = Add(d, t) }", M, B, {"s": (4,), "t": (4,)})
case(FORMS, "MatMul, Mul", TOKENS + "{ c = MatMul(x, w) y = Mul(c, s) }", M, {"s": (4,)})
case(FORMS, "MatMul, Mul, Add", TOKENS + "{ c = MatMul(x, w) d = Mul(c, s) y = Add(d, t) }", M, {"s": (4,), "t": (4,)})
case(FORMS, "MatMul, Add, Mul", TOKENS + "{ c = MatMul(x, w) d = Add(c, t) y = Mul(d, s) }", M, {"s": (4,), "t": (4,)})
case(
    FORMS,
    "MatMul, Mul by a number for each token",
    TOKENS + "{ c = MatMul(x, w) y = Mul(c, s) }",
    M,
    {"s": (5, 1)},
    least=1,
    note="not one factor a channel",
)
case(
    FORMS,
    "MatMul, LayerScale, residual",
    "(float[N,5,4] x) => (float[N,5,4] y){ c = MatMul(x, w) d = Add(c, b) e = Mul(d, s) y = Add(x, e) }",
    {"w": (4, 4), "s": (4,)},
    B,
)
case(
    FORMS,
    "input minus mean, divided by std, Conv",
    IMAGE + "{ d = Sub(x, m) e = Div(d, var) y = Conv(e, w, b) }",
    W,
    B,
    {"m": (1, 3, 1, 1), "var": (1, 3, 1, 1)},
)
case(
    FORMS,
    "input minus mean, divided by std, zero-padded Conv",
    IMAGE + "{ d = Sub(x, m) e = Div(d, var) y = Conv<pads=[1,1,1,1]>(e, w, b) }",
    W,
    B,
    {"m": (1, 3, 1, 1), "var": (1, 3, 1, 1)},
    least=1,
    note="the border needs another shift",
)
case(FORMS, "Conv, Neg", IMAGE + "{ c = Conv(x, w) d = Neg(c) y = BN(d) }", W, bn(4))
case(
    FORMS,
    "Einsum, Mul",
    '(float[N,5,3] x) => (float[N,4,5] y) { c = Einsum<equation="nti,io->not">(x, w) y = Mul(c, s)}',
    M,
    {"s": (1, 4, 1)},
)
case(
    FORMS,
    "Conv, BN whose scale and shift are Unsqueezed",
    IMAGE + "{ s = Unsqueeze(g, a) c = Conv(x, w) y = Mul(c, s) }",
    W,
    {"g": (4,), "a": ints(1, 2)},
)
case(
    FORMS,
    "MatMul on tokens, Sub, Mul, Add",
    TOKENS + "{ c = MatMul(x, w) d = Sub(c, b) e = Mul(d, s) y = Add(e, t) }",
    M,
    B,
    {"s": (4,), "t": (4,)},
)
case(
    FORMS,
    "MatMul on tokens, Transpose, BN",
    "(float[N,5,3] x) => (float[N,4,5] y){ c = MatMul(x, w) d = Transpose<perm=[0,2,1]>(c) y = BN(d) }",
    M,
    bn(4),
)
case(
    FORMS,
    "Einsum, BN",
    '(float[N,5,3] x) => (float[N,4,5] y) { c = Einsum<equation="nti,io->not">(x, w) y = BN(c) }',
    M,
    bn(4),
)
