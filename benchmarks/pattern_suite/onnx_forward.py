"""ONNX patterns: affines before the operator that can take them."""

import numpy as np

from pattern_suite.onnx_building import bn, case, ints
from pattern_suite.onnx_linear import COLUMN, IMAGE, B, M, W

FORWARD = "forward into the next operator"

case(FORWARD, "BN, Conv", IMAGE + "{ d = BN(x) y = Conv(d, w, b) }", W, B, bn(3))
case(
    FORWARD,
    "BN, Conv with groups",
    "(float[N,4,8,8] x) => (float[N,6,6,6] y) { d = BN(x) y = Conv<group=2>(d, w) }",
    {"w": (6, 2, 3, 3)},
    bn(4),
)
case(
    FORWARD,
    "BN, depthwise Conv",
    "(float[N,4,8,8] x) => (float[N,4,6,6] y) { d = BN(x) y = Conv<group=4>(d, w) }",
    {"w": (4, 1, 3, 3)},
    bn(4),
)
case(
    FORWARD,
    "BN, zero-padded Conv",
    IMAGE + "{ d = BN(x) y = Conv<pads=[1,1,1,1]>(d, w, b) }",
    W,
    B,
    bn(3),
    least=1,
    note="the border needs another shift",
)
case(
    FORWARD,
    "BN, Conv auto_pad SAME_UPPER",
    IMAGE + '{ d = BN(x) y = Conv<auto_pad="SAME_UPPER">(d, w, b) }',
    W,
    B,
    bn(3),
    least=1,
    note="the border needs another shift",
)
case(
    FORWARD,
    "BN with shift 0, zero-padded Conv",
    IMAGE + "{ d = BN(x) y = Conv<pads=[1,1,1,1]>(d, w, b) }",
    W,
    B,
    bn(3) | {"beta": np.zeros(3, np.float32), "mean": np.zeros(3, np.float32)},
)
case(FORWARD, "Relu, BN, Conv", IMAGE + "{ c = Relu(x) d = BN(c) y = Conv(d, w, b) }", W, B, bn(3))
case(
    FORWARD,
    "BN, reflecting Pad, Conv",
    IMAGE + '{ d = BN(x) p = Pad<mode="reflect">(d, k) y = Conv(p, w, b) }',
    W,
    B,
    bn(3),
    {"k": ints(0, 0, 1, 1, 0, 0, 1, 1)},
)
case(
    FORWARD,
    "BN, zero Pad, Conv",
    IMAGE + "{ d = BN(x) p = Pad(d, k) y = Conv(p, w, b) }",
    W,
    B,
    bn(3),
    {"k": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    note="the Pad can pad with another number only if it is one for all",
    least=1,
)
case(
    FORWARD,
    "BN, ConvTranspose",
    "(float[N,3,5,5] x) => (float[N,4,h,w] y) { d = BN(x) y = ConvTranspose(d, w) }",
    {"w": (3, 4, 3, 3)},
    bn(3),
    least=1,
    note="a shift isn't spread evenly",
)
case(
    FORWARD,
    "Mul, ConvTranspose",
    "(float[N,3,5,5] x) => (float[N,4,h,w] y) { d = Mul(x, s) y = ConvTranspose(d, w) }",
    {"w": (3, 4, 3, 3), "s": (3, 1, 1)},
)
case(FORWARD, "BN, Gemm", "(float[N,3] x) => (float[N,4] y) { d = BN(x) y = Gemm(d, w, b) }", M, B, bn(3))
case(
    FORWARD,
    "BN, Gemm beta 2",
    "(float[N,3] x) => (float[N,4] y) { d = BN(x) y = Gemm<beta=2.0>(d, w, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, MatMul, Add",
    "(float[N,3] x) => (float[N,4] y) { d = BN(x) e = MatMul(d, w) y = Add(e, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, three MatMuls (q, k, v)",
    "(float[N,3] x) => (float[N,4] q, float[N,4] k, float[N,4] v)"
    "{ d = BN(x) a = MatMul(d, w1) q = Add(a, b1) e = MatMul(d, w2) k = Add(e, b2) f = MatMul(d, w3) v = Add(f, b3) }",
    {"w1": (3, 4), "w2": (3, 4), "w3": (3, 4), "b1": (4,), "b2": (4,), "b3": (4,)},
    bn(3),
)
case(
    FORWARD,
    "BN, two Convs",
    "(float[N,3,8,8] x) => (float[N,4,h,w] y, float[N,2,h,w] z){ d = BN(x) y = Conv(d, w) z = Conv(d, v) }",
    W,
    {"v": (2, 3, 1, 1)},
    bn(3),
)
case(
    FORWARD,
    "BN, GlobalAveragePool, Flatten, Gemm",
    "(float[N,3,8,8] x) => (float[N,4] y){ d = BN(x) p = GlobalAveragePool(d) f = Flatten(p) y = Gemm(f, w, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, Flatten, Gemm",
    "(float[N,3,4,4] x) => (float[N,4] y) { d = BN(x) f = Flatten(d) y = Gemm(f, w, b) }",
    {"w": (48, 4)},
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, MaxPool, Conv, gamma > 0",
    IMAGE + "{ d = BN(x) p = MaxPool<kernel_shape=[2,2]>(d) y = Conv(p, w, b) }",
    W,
    B,
    bn(3),
    positive=True,
)
case(
    FORWARD,
    "BN, Concat with the input, Conv",
    IMAGE + "{ d = BN(x) p = Concat<axis=1>(d, x) y = Conv(p, w, b) }",
    {"w": (4, 6, 3, 3)},
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, Transpose, MatMul",
    "(float[N,3,7] x) => (float[N,7,4] y){ d = BN(x) t = Transpose<perm=[0,2,1]>(d) e = MatMul(t, w) y = Add(e, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "DequantizeLinear, Mul",
    "(uint8[N,4,5,5] x) => (float[N,4,5,5] y){ d = DequantizeLinear(x, k, z) y = Mul(d, s) }",
    {"k": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "s": COLUMN},
    note="into its scale, by channel",
    opset=17,
)
