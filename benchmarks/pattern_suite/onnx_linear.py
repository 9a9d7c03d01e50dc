"""ONNX patterns: an affine right behind a linear operator, in every form."""

import numpy as np

from pattern_suite.onnx_building import bn, case, ints

DIRECT = "BatchNormalization behind a linear operator"
FORMS = "affines as arithmetic"
IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
ROWS = "(float[N,3] x) => (float[N,4] y)"
TOKENS = "(float[N,5,3] x) => (float[N,5,4] y)"
W = {"w": (4, 3, 3, 3)}
B = {"b": (4,)}
M = {"w": (3, 4)}
COLUMN = (4, 1, 1)

case(DIRECT, "Conv, BN", IMAGE + "{ c = Conv(x, w, b) y = BN(c) }", W, B, bn(4))
case(DIRECT, "Conv without bias, BN", IMAGE + "{ c = Conv(x, w) y = BN(c) }", W, bn(4))
case(DIRECT, "Conv with an empty bias, BN", IMAGE + "{ c = Conv(x, w, ) y = BN(c) }", W, bn(4))
case(DIRECT, "Conv, BN, epsilon 0.5", IMAGE + "{ c = Conv(x, w, b) y = BN<epsilon=0.5>(c) }", W, B, bn(4))
case(DIRECT, "Conv, BN, opset 7", IMAGE + "{ c = Conv(x, w, b) y = BN(c) }", W, B, bn(4), opset=7)
case(DIRECT, "Conv, BN, opset 9", IMAGE + "{ c = Conv(x, w, b) y = BN(c) }", W, B, bn(4), opset=9)
case(DIRECT, "Conv, BN, opset 14", IMAGE + "{ c = Conv(x, w, b) y = BN(c) }", W, B, bn(4), opset=14)
case(DIRECT, "Conv, BN, opset 22", IMAGE + "{ c = Conv(x, w, b) y = BN(c) }", W, B, bn(4), opset=22)
case(
    DIRECT,
    "Conv auto_pad SAME_UPPER, BN",
    IMAGE + '{ c = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) y = BN(c) }',
    W,
    bn(4),
)
case(
    DIRECT,
    "Conv with groups, BN",
    "(float[N,4,8,8] x) => (float[N,6,8,8] y) { c = Conv<group=2, pads=[1,1,1,1]>(x, w) y = BN(c) }",
    {"w": (6, 2, 3, 3)},
    bn(6),
)
case(
    DIRECT,
    "depthwise Conv, BN",
    "(float[N,4,8,8] x) => (float[N,4,6,6] y) { c = Conv<group=4>(x, w) y = BN(c) }",
    {"w": (4, 1, 3, 3)},
    bn(4),
)
case(
    DIRECT, "Conv 1-D, BN", "(float[N,3,8] x) => (float[N,4,6] y) { c = Conv(x, w) y = BN(c) }", {"w": (4, 3, 3)}, bn(4)
)
case(
    DIRECT,
    "Conv 3-D, BN",
    "(float[N,3,4,4,4] x) => (float[N,4,2,2,2] y) { c = Conv(x, w) y = BN(c) }",
    {"w": (4, 3, 3, 3, 3)},
    bn(4),
)
case(
    DIRECT,
    "ConvTranspose, BN",
    "(float[N,3,5,5] x) => (float[N,4,h,w] y){ c = ConvTranspose<strides=[2,2]>(x, w, b) y = BN(c) }",
    {"w": (3, 4, 3, 3)},
    B,
    bn(4),
)
case(
    DIRECT,
    "ConvTranspose with in == out, BN",
    "(float[N,4,5,5] x) => (float[N,4,h,w] y){ c = ConvTranspose(x, w, b) y = BN(c) }",
    {"w": (4, 4, 3, 3)},
    B,
    bn(4),
)
case(
    DIRECT,
    "ConvTranspose with groups, BN",
    "(float[N,4,5,5] x) => (float[N,6,h,w] y){ c = ConvTranspose<group=2>(x, w) y = BN(c) }",
    {"w": (4, 3, 3, 3)},
    bn(6),
)
case(
    DIRECT,
    "depthwise ConvTranspose, BN",
    "(float[N,4,5,5] x) => (float[N,4,h,w] y){ c = ConvTranspose<group=4>(x, w) y = BN(c) }",
    {"w": (4, 1, 3, 3)},
    bn(4),
)
case(DIRECT, "Gemm, BN", ROWS + "{ c = Gemm(x, w, b) y = BN(c) }", M, B, bn(4))
case(DIRECT, "Gemm transB, BN", ROWS + "{ c = Gemm<transB=1>(x, w, b) y = BN(c) }", {"w": (4, 3)}, B, bn(4))
case(
    DIRECT, "Gemm transA, BN", "(float[3,2] x) => (float[2,4] y) { c = Gemm<transA=1>(x, w, b) y = BN(c) }", M, B, bn(4)
)
case(DIRECT, "Gemm alpha 0.5, BN", ROWS + "{ c = Gemm<alpha=0.5>(x, w, b) y = BN(c) }", M, B, bn(4))
case(DIRECT, "Gemm beta 2, BN", ROWS + "{ c = Gemm<beta=2.0>(x, w, b) y = BN(c) }", M, B, bn(4))
case(
    DIRECT,
    "Gemm alpha 0.5, beta 2, transB, BN",
    ROWS + "{ c = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b) y = BN(c) }",
    {"w": (4, 3)},
    B,
    bn(4),
)
case(DIRECT, "Gemm without bias, BN", ROWS + "{ c = Gemm(x, w) y = BN(c) }", M, bn(4))
case(DIRECT, "Gemm with a scalar bias, BN", ROWS + "{ c = Gemm(x, w, b) y = BN(c) }", M, {"b": ()}, bn(4))
case(DIRECT, "MatMul, BN on (N, C)", ROWS + "{ c = MatMul(x, w) y = BN(c) }", M, bn(4))
case(DIRECT, "MatMul, Add, BN on (N, C)", ROWS + "{ c = MatMul(x, w) d = Add(c, b) y = BN(d) }", M, B, bn(4))
case(
    DIRECT,
    "MatMul with the constant on the left, BN",
    "(float[3,5] x) => (float[4,5] y){ c = MatMul(w, x) y = BN(c) }",
    {"w": (4, 3)},
    bn(5),
    least=1,
    note="other axes: x's own channels, an input",
)
case(DIRECT, "Conv, BN, BN", IMAGE + "{ c = Conv(x, w) d = BN(c) y = BN(d, 2) }", W, bn(4), bn(4, "2"))
case(
    DIRECT,
    "Conv, BN, Relu, Conv, BN",
    IMAGE + "{ c = Conv(x, w) d = BN(c) e = Relu(d) f = Conv(e, v) y = BN(f, 2) }",
    W,
    {"v": (4, 4, 1, 1)},
    bn(4),
    bn(4, "2"),
)
case(DIRECT, "Conv, Identity, BN", IMAGE + "{ c = Conv(x, w) d = Identity(c) y = BN(d) }", W, bn(4))
case(DIRECT, "Conv, Dropout, BN", IMAGE + "{ c = Conv(x, w) d = Dropout(c) y = BN(d) }", W, bn(4))
case(
    DIRECT,
    "Conv, BN, both from Constant nodes",
    IMAGE + "{ g = Constant<value = float[4] {1.5, -2, 0.5, 3}>()"
    " v = Constant<value_floats=[0.5, 1.0, 1.5, 2.0]>() c = Conv(x, w) y = BatchNormalization(c, g, beta, mean, v) }",
    W,
    {"beta": (4,), "mean": (4,)},
)
case(
    DIRECT,
    "Conv, BN, statistics through Identity",
    IMAGE + "{ m = Identity(mean) c = Conv(x, w) y = BatchNormalization(c, gamma, beta, m, var) }",
    W,
    bn(4),
)
case(
    DIRECT,
    "weight cast from float16, Conv, BN",
    IMAGE + "{ v = Cast<to=1>(w) c = Conv(x, v) y = BN(c) }",
    W,
    bn(4),
    dtypes={"w": "float16"},
)

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
