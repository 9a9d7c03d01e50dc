"""ONNX patterns: several consumers, shared weights, joins."""

from pattern_suite.onnx_building import bn, case
from pattern_suite.onnx_linear import IMAGE, B, W

SHARED = "several consumers, shared tensors"
TWO = "(float[N,3,8,8] x) => (float[N,4,h,w] y, float[N,4,h,w] z)"

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
