"""ONNX patterns: constants that are data between the layers, as in transformers."""

from pattern_suite.onnx_building import bn, case, ints

DATA = "constants that are data"
TOKENS = "(float[N,5,3] x) => (float[N,4,5] y)"
M = {"w": (3, 4)}
ROWS = "{ r = Relu(x) i = Cast<to=7>(r) k = Clip(i, zero, eight) c = Gather<axis=0>(p, k)"
TABLE = {"p": (9, 4), "zero": ints(0).reshape(()), "eight": ints(8).reshape(())}
END = " t = Transpose<perm=[0,2,1]>(c) b = BN(t) y = Relu(b) }"

case(
    DATA, "MatMul, Add of positions, BN", TOKENS + "{ m = MatMul(x, w) c = Add(m, p)" + END, M, {"p": (1, 5, 4)}, bn(4)
)
case(
    DATA,
    "tokens joined to what a MatMul and an Add give, BN",
    "(float[2,5,3] x) => (float[2,4,6] y) { m = MatMul(x, w) a = Add(m, d) c = Concat<axis=1>(p, a)" + END,
    M,
    {"d": (4,), "p": (2, 1, 4)},
    bn(4),
)
case(
    DATA,
    "Gather from a table (an embedding), BN",
    "(float[N,5] x) => (float[N,4,5] y) " + ROWS + END,
    TABLE,
    bn(4),
)
case(
    DATA,
    "an embedding whose table a MatMul reads too, BN",
    "(float[N,5] x) => (float[N,9,5] z) " + ROWS + END.replace(" }", " z = MatMul(p, y) }"),
    TABLE,
    bn(4),
    note="only with a copy of the table",
)
