"""ONNX patterns: several consumers, shared tensors, blocks, and what a fold must leave alone."""

import numpy as np

from pattern_suite.onnx_building import bn, case, numbers
from pattern_suite.onnx_linear import COLUMN, IMAGE, ROWS, B, M, W

SHARED = "several consumers, shared tensors"
BLOCKS = "blocks"
STAYS = "what a fold would change"
NUMBERS = "numbers"
TWO = "(float[N,3,8,8] x) => (float[N,4,h,w] y, float[N,4,h,w] z)"
SAME = "(float[N,4,8,8] x) => (float[N,4,8,8] y)"
V = {"v": (4, 4, 3, 3)}
HALF = "(float16[N,3,8,8] x) => (float16[N,4,h,w] y)"

case(
    SHARED,
    "Conv with another consumer, which needs its numbers",
    TWO + "{ c = Conv(x, w) y = BN(c) z = Sigmoid(c) }",
    W,
    bn(4),
    least=1,
    note="the other consumer needs the Conv's own numbers",
)
case(
    SHARED,
    "Conv that is an output too",
    TWO + "{ z = Conv(x, w) y = BN(z) }",
    W,
    bn(4),
    least=1,
    note="whoever reads the output wants these numbers",
)
case(
    SHARED,
    "Conv whose other consumer asks for its Shape",
    "(float[N,3,8,8] x) => (float[N,4,h,w] y, int64[4] z){ c = Conv(x, w) y = BN(c) z = Shape(c) }",
    W,
    bn(4),
)
case(
    SHARED,
    "Conv with a BN and another Conv behind it",
    TWO + "{ c = Conv(x, w) d = BN(c) y = Relu(d) z = Conv(c, u, b) }",
    W,
    {"u": (4, 4, 1, 1)},
    B,
    bn(4),
)
case(
    SHARED,
    "Conv with two BNs behind it",
    TWO + "{ c = Conv(x, w) y = BN(c) z = BN(c, 2) }",
    W,
    bn(4),
    bn(4, "2"),
    least=1,
    note="each wants other numbers of the Conv",
)
case(SHARED, "BN that is an output too", TWO + "{ c = Conv(x, w) y = BN(c) z = Relu(y) }", W, bn(4))
case(
    SHARED,
    "two Convs that share a weight, BN behind one",
    TWO + "{ c = Conv(x, w) y = BN(c) d = Neg(x) z = Conv(d, w) }",
    W,
    bn(4),
    note="only with a copy of the weight",
)
case(
    SHARED,
    "two Convs that share a weight, each with its BN",
    TWO + "{ c = Conv(x, w) y = BN(c) n = Neg(x) d = Conv(n, w) z = BN(d, 2) }",
    W,
    bn(4),
    bn(4, "2"),
    note="only with a copy of the weight",
)
case(
    SHARED,
    "two Convs and their BNs share all constants",
    TWO + "{ c = Conv(x, w) y = BN(c) n = Neg(x) d = Conv(n, w) z = BN(d) }",
    W,
    bn(4),
)
case(
    SHARED,
    "weight that is an output too",
    "(float[N,3,8,8] x) => (float[N,4,h,w] y, float[4,3,3,3] w){ c = Conv(x, w) y = BN(c) }",
    W,
    bn(4),
    note="only with a copy of the weight",
)
case(
    SHARED,
    "weight that another operator reads",
    "(float[N,3,8,8] x) => (float[N,4,h,w] y, float[4,3,3,3] z){ c = Conv(x, w) y = BN(c) z = Neg(w) }",
    W,
    bn(4),
    note="only with a copy of the weight",
)
case(
    SHARED,
    "weight that is an input too (overridable)",
    IMAGE + "{ c = Conv(x, w) y = BN(c) }",
    W,
    bn(4),
    overridable=("w",),
    least=1,
    note="the caller may give another weight",
)
case(
    SHARED,
    "statistics that are inputs too (overridable)",
    IMAGE + "{ c = Conv(x, w) y = BN(c) }",
    W,
    bn(4),
    overridable=("var", "mean"),
    least=1,
    note="the caller may give other statistics",
)
case(
    SHARED,
    "tensors whose names a tool might take",
    IMAGE + "{ c = Conv(x, w) c_weight = Relu(x) c_bias = BN(c) e = Conv(c_weight, w) y = Add(c_bias, e) }",
    W,
    bn(4),
)
case(
    SHARED,
    "Conv with a bias that a second Conv shares",
    TWO + "{ c = Conv(x, w, b) y = BN(c) n = Neg(x) z = Conv(n, v, b) }",
    W,
    {"v": (4, 3, 3, 3)},
    B,
    bn(4),
)

case(
    BLOCKS,
    "residual block",
    SAME + "{ c = Conv<pads=[1,1,1,1]>(x, v) d = BN(c) e = Relu(d)"
    " f = Conv<pads=[1,1,1,1]>(e, u) g = BN(f, 2) h = Add(g, x) y = Relu(h) }",
    V,
    {"u": (4, 4, 3, 3)},
    bn(4),
    bn(4, "2"),
)
case(
    BLOCKS,
    "pre-activation block, gamma > 0",
    "(float[N,3,8,8] x) => (float[N,2,h,w] y) { s = Conv(x, w) c = BN(s)"
    " d = Relu(c) e = Conv<pads=[1,1,1,1]>(d, v) a = Add(s, e) y = Conv(a, u, b) }",
    W,
    V,
    {"u": (2, 4, 1, 1), "b": (2,)},
    bn(4),
    positive=True,
)
case(
    BLOCKS,
    "pre-activation block, gamma of both signs",
    "(float[N,3,8,8] x) => (float[N,2,h,w] y) { s = Conv(x, w)"
    " c = BN(s) d = Relu(c) e = Conv<pads=[1,1,1,1]>(d, v) a = Add(s, e) y = Conv(a, u, b) }",
    W,
    V,
    {"u": (2, 4, 1, 1), "b": (2,)},
    bn(4),
    note="the trunk changes sign channel by channel",
)
case(
    BLOCKS,
    "densely connected layers, gamma > 0",
    "(float[N,3,8,8] x) => (float[N,2,h,w] y) { s = Conv(x, w) c = BN(s)"
    " d = Relu(c) e = Conv(d, k, kb) a = Concat<axis=1>(s, e) f = BN(a, 2) g = Relu(f) y = Conv(g, u, b) }",
    W,
    {"k": (3, 4, 1, 1), "kb": (3,), "u": (2, 7, 1, 1), "b": (2,)},
    bn(4),
    bn(7, "2"),
    least=1,
    positive=True,
    note="BNs that want different shifts",
)
case(
    BLOCKS,
    "RepVGG: Conv 3x3 and BN, Conv 1x1 and BN, BN, added",
    SAME + "{ c = Conv<pads=[1,1,1,1]>(x, v) d = BN(c)"
    " e = Conv(x, u) f = BN(e, 2) g = BN(x, 3) h = Add(d, f) y = Add(h, g) }",
    V,
    {"u": (4, 4, 1, 1)},
    bn(4),
    bn(4, "2"),
    bn(4, "3"),
)
case(BLOCKS, "BN(x) + Conv(x)", SAME + "{ c = Conv<pads=[1,1,1,1]>(x, v) d = BN(x) y = Add(c, d) }", V, bn(4))
case(BLOCKS, "BN(x + Conv(x))", SAME + "{ c = Conv<pads=[1,1,1,1]>(x, v) d = Add(c, x) y = BN(d) }", V, bn(4))
case(
    BLOCKS,
    "squeeze and excitation behind a BN",
    IMAGE + "{ c = Conv(x, w) d = BN(c) p = GlobalAveragePool(d) q = Conv(p, k) g = Sigmoid(q) y = Mul(d, g) }",
    W,
    {"k": (4, 4, 1, 1)},
    bn(4),
)
case(
    BLOCKS,
    "BN behind a gate",
    IMAGE + "{ c = Conv(x, w) p = Sigmoid(c) q = Conv(x, k) g = Mul(p, q) y = BN(g) }",
    W,
    {"k": (4, 3, 3, 3)},
    bn(4),
    least=1,
    note="s could go, t can't",
)
case(
    BLOCKS,
    "Conv, BN, Clip to 6",
    IMAGE + "{ c = Conv(x, w) d = BN(c) y = Clip(d, lo, hi) }",
    W,
    {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)},
    bn(4),
)
case(BLOCKS, "Conv, BN, PRelu", IMAGE + "{ c = Conv(x, w) d = BN(c) y = PRelu(d, s) }", W, {"s": COLUMN}, bn(4))
case(
    BLOCKS,
    "Conv and BN in a branch of an If",
    "(float[N,3,8,8] x, bool q) => (float[N,4,h,w] y) { y = If (q) <then_branch ="
    " g1 () => (float[N,4,h,w] y1) { c = Conv(x, w) y1 = BN(c) }, else_branch = g2 () => (float[N,4,h,w] y2)"
    " { y2 = Conv(x, w) }> }",
    W,
    bn(4),
    note="only with a copy of the weight",
)

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
