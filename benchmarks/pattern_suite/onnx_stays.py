"""ONNX patterns: what must stay, and numbers of other types."""

import numpy as np

from pattern_suite.onnx_building import bn, case, numbers
from pattern_suite.onnx_linear import IMAGE, ROWS, M, W

STAYS = "what a fold would change"
NUMBERS = "numbers"
HALF = "(float16[N,3,8,8] x) => (float16[N,4,h,w] y)"

case(
    STAYS,
    "BN in training mode",
    IMAGE + "{ c = Conv(x, w) y, m2, v2 = BN<training_mode=1>(c) }",
    W,
    bn(4),
    least=1,
    note="normalises by its input",
)
case(
    STAYS,
    "InstanceNormalization",
    IMAGE + "{ c = Conv(x, w) y = InstanceNormalization(c, gamma, beta) }",
    W,
    {"gamma": (4,), "beta": (4,)},
    least=0,
    note="normalises by its input; no affine",
)
case(
    STAYS,
    "BN alone",
    "(float[N,3,8,8] x) => (float[N,3,8,8] y) { d = BN(x) y = Relu(d) }",
    bn(3),
    least=1,
    note="no linear operator",
)
case(
    STAYS,
    "BN whose statistics are computed",
    IMAGE + "{ z = Conv(x, w) m = ReduceMean<axes=[0,2,3], keepdims=0>(z)"
    " y = BatchNormalization(z, gamma, beta, m, var) }",
    W,
    bn(4),
    least=1,
    note="no constants",
)
case(
    STAYS,
    "Conv with a computed weight, BN",
    "(float[N,3,8,8] x, float[4,3,3,3] k) => (float[N,4,h,w] y){ c = Conv(x, k) y = BN(c) }",
    bn(4),
    least=1,
    note="the weight is an input",
)
case(
    STAYS,
    "Conv with a weight that an Add of constants makes, BN",
    IMAGE + "{ k = Add(w, u) c = Conv(x, k) y = BN(c) }",
    W,
    {"u": (4, 3, 3, 3)},
    bn(4),
)
case(
    STAYS,
    "weight from a DequantizeLinear, Conv, BN",
    IMAGE + "{ k = DequantizeLinear(w, s, z) c = Conv(x, k) y = BN(c) }",
    {
        "w": (numbers("w", (4, 3, 3, 3)) * 40).astype(np.int8),
        "s": np.array(0.02, np.float32),
        "z": np.array(0, np.int8),
    },
    bn(4),
    note="into the scale of DequantizeLinear, by channel",
)
case(
    STAYS,
    "Gemm, BN, where an Identity gives the weight",
    ROWS + "{ k = Identity(w) c = Gemm(x, k) y = BN(c) }",
    M,
    bn(4),
)
case(
    STAYS,
    "a local function around Conv and BN",
    '<ir_version: 8, opset_import: ["": 17, "local": 1]> g '
    "(float[N,3,8,8] x) => (float[N,4,h,w] y) { y = local.block(x, w, gamma, beta, mean, var) }"
    '<opset_import: ["": 17], domain: "local"> block (x, w, g, b, m, v) => (y)'
    "{ c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) }",
    W,
    bn(4),
)

case(
    NUMBERS,
    "float16",
    HALF + "{ c = Conv(x, w) y = BN(c) }",
    W,
    bn(4),
    dtypes=dict.fromkeys(("w", "gamma", "beta", "mean", "var"), "float16"),
)
case(
    NUMBERS,
    "float16, statistics in float32",
    HALF + "{ c = Conv(x, w) y = BN(c) }",
    W,
    bn(4),
    opset=15,
    dtypes={"w": "float16", "gamma": "float16", "beta": "float16"},
)
case(
    NUMBERS,
    "float16, epsilon 1e-8, a variance of 0",
    HALF + "{ c = Conv(x, w) y = BN<epsilon=0.00000001>(c) }",
    W,
    {
        "gamma": numbers("gamma", (4,)) * np.float32(1e-3),
        "beta": (4,),
        "mean": (4,),
        "var": np.array([0.5, 0, 1, 2], np.float16),
    },
    dtypes=dict.fromkeys(("w", "gamma", "beta", "mean"), "float16"),
)
case(
    NUMBERS,
    "float64",
    "(double[N,3,8,8] x) => (double[N,3,8,8] y) { c = Mul(x, k) d = BN(c) y = Relu(d) }",
    {"k": (3, 1, 1)},
    bn(3),
    least=1,
    dtypes=dict.fromkeys(("k", "gamma", "beta", "mean", "var"), "float64"),
    note="two affines that join to one",
)
case(
    NUMBERS,
    "gamma == 0 in two channels",
    IMAGE + "{ c = Conv(x, w) d = BN(c) y = Relu(d) }",
    W,
    bn(4) | {"gamma": np.array([1.5, 0, -2, 0], np.float32)},
)
case(
    NUMBERS,
    "gamma of 1e-30",
    IMAGE + "{ c = Conv(x, w) d = BN(c) y = Relu(d) }",
    W,
    bn(4) | {"gamma": np.array([1.5, 1e-30, -2, 1], np.float32)},
)
case(
    NUMBERS,
    "no initializer, the constants are Constant nodes of value_float",
    IMAGE + "{ s = Constant<value_float=2.5>() c = Conv(x, w) y = Mul(c, s) }",
    W,
)
