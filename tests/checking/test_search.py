"""`--search`: it finds the input at which two models part, where none that is drawn shows it."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from bnfold.checking import check
from tests.checking.test_vacuous import graph


def gemm(weight):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm")]
    sides = [("x", TensorProto.FLOAT, ["N", len(weight)])], [("y", TensorProto.FLOAT, None)]
    return graph(nodes, *sides, {"w": weight.astype("f")})


@pytest.mark.parametrize("n", [128, 400])
def test_a_linear_difference_is_largest_in_a_corner(n):
    """Random inputs feel a spread-out fault as its square root: each of n numbers is off by some roundings."""
    g = np.random.default_rng(0)
    weight = g.normal(size=(n, 4)) / np.sqrt(n)
    off = np.zeros_like(weight)
    off[:, 0] = 2.0**-22 / np.sqrt(n) * g.choice([-1, 1], n) * 4
    pair = gemm(weight), gemm(weight + off)
    assert check(*pair, localise=False, audit=()).passed
    found = check(*pair, search=3, localise=False, audit=())
    assert found.exit_status == 1
    assert found.runs[0].outputs[0].exceeded.input.startswith("search/")
    assert check(pair[0], pair[0], search=3, localise=False, audit=()).passed


def gated(last):
    """y = a x + last * relu(sum(x) - 40): no drawn input opens the ReLU, a corner of their range does."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["s"], keepdims=1, name="sum"),
        helper.make_node("Sub", ["s", "far"], ["t"]),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("Mul", ["r", "last"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["y"]),
    ]
    constants = {"axis": np.array([1]), "far": np.full(1, 40, "f"), "last": np.full(1, last, "f")}
    return graph(nodes, [("x", TensorProto.FLOAT, ["N", 8])], [("y", TensorProto.FLOAT, None)], constants)


def test_what_is_shut_to_every_drawn_input_is_opened():
    assert check(gated(1), gated(2), localise=False, audit=()).passed
    found = check(gated(1), gated(2), search=40, localise=False, audit=())
    assert found.exit_status == 1
    assert found.runs[0].outputs[0].exceeded.input.startswith("search/")
