"""Lengths that ONNX's inference leaves open, and a weight tells."""

import numpy as np
import pytest
from onnx import parser

from bnfold.adapters.onnx_shapes import settled
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


def test_a_symbol_of_the_file_and_one_of_two_lengths_stay():
    graph = parser.parse_graph(
        "g (float[N,c] x) => (float[M] y) { y = MatMul(x, w) z = MatMul(u, v) t = MatMul(u, w) }"
    )
    found = {"x": (("N", "c"), "float32"), "u": (("N", "k"), "float32")}
    assert settled(found, graph.input, graph.node, {"w": (5, 2), "v": (6, 2)}) == found
