"""ONNX patterns: operators that are linear at some of their ends only, and operators without a bias."""

from typing import Any

import numpy as np

from pattern_suite.onnx_building import bn, case, numbers

PARTIAL = "recurrent operators, no bias"
HEAD = "(float[N,5,6] x) => (float[l,d,n,h] y) { b = BN(x) t = Transpose<perm=[2,0,1]>(b) "
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def weights(kind: str, ways: int = 1, *, biased: bool = True) -> dict[str, Any]:
    """W, R and B of a layer with four states."""
    gates = 4 * GATES[kind]
    shapes = {"w": (ways, gates, 5), "r": (ways, gates, 4), "c": (ways, 2 * gates)}
    return {name: numbers(name, shape) / 3 for name, shape in shapes.items() if biased or name != "c"}


for _kind in GATES:
    case(PARTIAL, f"BN, {_kind}", HEAD + f"y = {_kind}<hidden_size=4>(t, w, r, c) }}", weights(_kind), bn(5))
case(
    PARTIAL,
    "BN, GRU without B, both directions",
    HEAD + 'y = GRU<hidden_size=4, direction="bidirectional">(t, w, r) }',
    weights("GRU", 2, biased=False),
    bn(5),
)
case(
    PARTIAL,
    "GRU, BN",
    "(float[6,N,5] x) => (float[l,4,n] y) { t = GRU<hidden_size=4>(x, w, r, c) q = Squeeze(t, k)"
    " p = Transpose<perm=[0,2,1]>(q) y = BN(p) }",
    weights("GRU"),
    {"k": np.array([1])},
    bn(4),
    least=1,
    note="the layer reads its own output again",
)
case(
    PARTIAL,
    "MatMul over L, BN of one channel, Relu",
    "(float[N,1,6] x) => (float[N,1,5] y) { c = MatMul(x, w) d = BN(c) y = Relu(d) }",
    {"w": (6, 5)},
    bn(1),
)
case(
    PARTIAL,
    "BN, Einsum, MatMul, Add",
    "(float[N,5,6] x) => (float[N,6,3] y) { b = BN(x) t = Transpose<perm=[0,2,1]>(b)"
    ' e = Einsum<equation="nlc,cd->nld">(t, w) m = MatMul(e, v) y = Add(m, c) }',
    {"w": (5, 4), "v": (4, 3), "c": (3,)},
    bn(5),
    note="MatMul takes what the Einsum makes of the shift",
)
