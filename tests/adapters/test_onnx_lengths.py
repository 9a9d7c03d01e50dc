"""Lengths that ONNX's inference leaves open, and a weight tells."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from bnfold.adapters.onnx_shapes import settled
from bnfold.adapters.onnx_sizes import settle
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model

OPEN = "s = Shape(x) n = Slice(s, zero, one) t = Concat<axis=0>(n, minus, two, three) r = Reshape(x, t)"
SIZES = {name: np.array([k]) for name, k in {"zero": 0, "one": 1, "minus": -1, "two": 2, "three": 3}.items()}


def test_a_batch_norm_tells_its_channels(tmp_path):
    """(N, 30) as (N, ?, 2, 3), where ? is 5 because gamma has five numbers."""
    text = f"(float[N,30] x) => (float[N,4,2,3] y) {{ {OPEN} d = BN(r) y = Conv(d, v) }}"
    folded, _ = fold_and_check(model(text, v=(4, 5, 1, 1), **SIZES, **batch_norm(5)), tmp_path)
    assert "BatchNormalization" not in kinds(folded)


@pytest.mark.parametrize(
    ("node", "weight", "shape"),
    [
        ("Conv", (4, 5, 3), ("n", 5, "k")),
        ("Conv<group=2>", (4, 5, 3), ("n", 10, "k")),
        ("ConvTranspose<group=2>", (4, 5, 3), ("n", 4, "k")),
        ("BatchNormalization", (6,), ("n", 6, "k")),
        ("MatMul", (7, 2), ("n", "c", 7)),
        ("Gemm", (7, 2), ("n", 7)),
        ("Gemm<transB=1>", (7, 2), ("n", 2)),
        ("Gemm<transA=1>", (7, 2), (7, "c")),
        ("MatMul", (3, 7, 2), ("n", "c", "k")),
        ("Mul", (6,), ("n", "c", "k")),
    ],
)
def test_a_weight_tells_a_length(node, weight, shape):
    nodes = parser.parse_graph(f"g (float[N] a) => (float[M] y) {{ y = {node}(x, w) }}").node
    symbols = ("n", "c", "k")[: len(shape)]
    assert settled({"x": (symbols, "float32")}, [], nodes, {"w": weight})["x"] == (shape, "float32")


@pytest.mark.parametrize(
    ("node", "weight", "shape"),
    [
        ("Conv<group=2>", (4, 5, 3, 3), (None, 10, None, None)),
        ("ConvTranspose", (4, 5, 3), (None, 4, None)),
        ("Gemm<transB=1>", (7, 2), (None, 2)),
        ("MatMul", (7, 2), None),
    ],
)
def test_a_layer_of_one_rank_tells_the_rank(node, weight, shape):
    nodes = parser.parse_graph(f"g (float[N] a) => (float[M] y) {{ y = {node}(x, w) }}").node
    assert settled({"x": (None, "float32")}, [], nodes, {"w": weight})["x"] == (shape, "float32")


@pytest.mark.parametrize(
    "axes",
    [
        "a = Reshape(two, minus)",
        "b = Identity(two) a = Cast<to=7>(b)",
        "a = Concat<axis=0>(first, second)",
        "k = Constant<value_ints=[2, 3]>() a = Reshape(k, minus)",
    ],
)
def test_axes_that_nodes_make_of_constants_leave_the_rank_known(axes, tmp_path):
    """As the dynamo exporter writes a mean over H and W; the BatchNorm after it goes into the convolution."""
    text = f"(float[N,3,6,6] x) => (float[N,4,1,1] y) {{ {axes} m = ReduceMean(x, a) c = Conv(m, w) y = BN(c) }}"
    whole = {"two": [2, 3], "minus": [-1], "first": [2], "second": [3]}
    constants = {name: np.array(numbers) for name, numbers in whole.items() if name in axes}
    folded, _ = fold_and_check(model(text, w=(4, 3, 1, 1), **constants, **batch_norm(4), opset=18), tmp_path)
    assert "BatchNormalization" not in kinds(folded)


@pytest.mark.parametrize(("inputs", "kind"), [("float[N,12] x", "Constant"), ("float[N,12] x, int64[2] a", "Identity")])
def test_sizes_that_an_input_may_override_are_not_known(inputs, kind):
    graph = parser.parse_graph(f"g ({inputs}) => (float[N,M] y) {{ b = Identity(a) y = Reshape(x, b) }}")
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 3]), "a"))
    settle(graph)
    assert [node.op_type for node in graph.node] == [kind, "Reshape"]


def test_a_symbol_of_the_file_and_one_of_two_lengths_stay():
    graph = parser.parse_graph(
        "g (float[N,c] x) => (float[M] y) { y = MatMul(x, w) z = MatMul(u, v) t = MatMul(u, w) }"
    )
    found = {"x": (("N", "c"), "float32"), "u": (("N", "k"), "float32")}
    assert settled(found, graph.input, graph.node, {"w": (5, 2), "v": (6, 2)}) == found
