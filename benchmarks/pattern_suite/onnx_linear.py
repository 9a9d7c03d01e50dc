"""ONNX patterns: a BatchNormalization right behind a linear operator."""

from pattern_suite.onnx_building import bn, case

DIRECT = "BatchNormalization behind a linear operator"
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
