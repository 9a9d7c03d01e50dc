"""ONNX patterns: blocks of networks, subgraphs."""

import numpy as np

from pattern_suite.onnx_building import bn, case
from pattern_suite.onnx_linear import COLUMN, IMAGE, W

BLOCKS = "blocks"
SAME = "(float[N,4,8,8] x) => (float[N,4,8,8] y)"
V = {"v": (4, 4, 3, 3)}

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
FUNCTIONS = '<ir_version: 8, opset_import: ["": 17, "local": 1]>\ng '
case(
    BLOCKS,
    "a local function called twice, each with constants of its own",
    FUNCTIONS
    + SAME
    + """{ c = local.Block(x, v, gamma, beta, mean, var)
        y = local.Block(c, u, gamma2, beta2, mean2, var2) }
    <domain: "local", opset_import: ["": 17]>
    Block (a, k, g, b, m, s) => (r) {
        d = Conv<pads=[1,1,1,1]>(a, k) e = BatchNormalization(d, g, b, m, s) r = Relu(e) }""",
    V,
    {"u": (4, 4, 3, 3)},
    bn(4),
    bn(4, "2"),
)
case(
    BLOCKS,
    "an affine half inside of a local function",
    FUNCTIONS
    + IMAGE
    + """{ c = Conv(x, w) d = local.Scaled(c, s) y = Add(d, t) }
    <domain: "local", opset_import: ["": 17]>
    Scaled (a, k) => (r) { r = Mul(a, k) }""",
    W,
    {"s": COLUMN, "t": COLUMN},
)
