"""GELU, LayerNorm and RMSNorm that an exporter took apart stay as they are; what only looks like them folds."""

from collections.abc import Callable

import pytest

from bnfold import ops
from bnfold.folding import fold
from bnfold.graph import Node
from bnfold.raising import raised
from bnfold.why import Why
from tests.adapters.onnx_cases import fold_and_check, kinds, model
from tests.test_raising import Builder

SHAPE = (2, 5, 8)


def unary(b: Builder, kind: str, x: str) -> str:
    return b.node(ops.Unary(kind), x)


def curve(b: Builder, kind: str, x: str) -> str:
    return b.node(ops.Unknown(kind), x)


def times(b: Builder, x: str, number: float) -> str:
    return b.binary("mul", x, b.constant(number))


def bracket(b: Builder, x: str) -> str:
    """1 + erf(x / sqrt(2))"""
    return b.binary("add", curve(b, "Erf", b.binary("div", x, b.constant(1.4142))), b.constant(1.0))


def gelu(b: Builder, x: str) -> str:
    return times(b, b.binary("mul", x, bracket(b, x)), 0.5)


def gelu_halved_first(b: Builder, x: str) -> str:
    return b.binary("mul", times(b, x, 0.5), bracket(b, x))


def gelu_halved_inside(b: Builder, x: str) -> str:
    return b.binary("mul", x, times(b, bracket(b, x), 0.5))


def gelu_by_tanh(b: Builder, x: str) -> str:
    cubic = times(b, b.binary("pow", x, b.constant(3.0)), 0.044715)
    inner = times(b, b.binary("add", x, cubic), 0.79788)
    return b.binary("mul", times(b, x, 0.5), b.binary("add", curve(b, "Tanh", inner), b.constant(1.0)))


def mean(b: Builder, x: str, axis: int = 2) -> str:
    shape = tuple(1 if place == axis else size for place, size in enumerate(SHAPE))
    return b.node(ops.Reduce("mean", (axis,), True), x, shape=shape)


def root(b: Builder, x: str, kind: str = "sqrt", axis: int = 2) -> str:
    """sqrt(mean(x^2) + eps), or its reciprocal"""
    eps = b.binary("add", mean(b, b.binary("pow", x, b.constant(2.0)), axis), b.constant(1e-5))
    return unary(b, kind, eps)


def layer_norm(b: Builder, x: str, axis: int = 2) -> str:
    centred = b.binary("sub", x, mean(b, x, axis))
    normal = b.binary("div", centred, root(b, centred, axis=axis))
    scaled = b.binary("mul", normal, b.constant([1.0, 2, 3, 4, -5, 6, 7, 8]))
    return b.binary("add", scaled, b.constant([3.0, 2, 3, 1, 5, 6, -7, 8]))


def rms_norm(b: Builder, x: str) -> str:
    return b.binary("mul", b.binary("mul", x, root(b, x, "rsqrt")), b.constant([1.0, 2, 3, 4, -5, 6, 7, 8]))


def rms_norm_by_reciprocal(b: Builder, x: str) -> str:
    inverse = unary(b, "reciprocal", root(b, x))
    return b.binary("mul", b.binary("mul", x, inverse), b.constant([1.0, 2, 3, 4, -5, 6, 7, 8]))


def between_layers(function: Callable[[Builder, str], str]) -> tuple[list[str], list[Node]]:
    """Put it between two Linears; gives what folding folds, and the arithmetic that is held."""
    b = Builder(SHAPE)
    weights = [b.constant([[0.3 * i - 0.2 * j + 0.05 * i * j for i in range(8)] for j in range(8)]) for _ in range(2)]
    bias = b.constant([0.0] * 8)
    y = function(b, b.node(ops.Linear(), "x", weights[0], bias, shape=SHAPE))
    graph = raised(b.graph(b.node(ops.Linear(), y, weights[1], bias, shape=SHAPE)))
    held = [node for node in graph.nodes if node.limits.get("frames") is Why.FUSED]
    return [outcome.affine for outcome in fold(graph).folded], held


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        (gelu, 3),
        (gelu_halved_first, 3),
        (gelu_halved_inside, 3),
        (gelu_by_tanh, 4),
        (layer_norm, 3),
        (rms_norm, 2),
        (rms_norm_by_reciprocal, 2),
    ],
)
def test_what_runtimes_compute_as_one_operator_stays(function, parts):
    folded, held = between_layers(function)
    assert not folded
    assert len(held) == parts


def gate_of_another(b: Builder, x: str) -> str:
    """Not x, but its square, times the bracket."""
    return times(b, b.binary("mul", b.binary("mul", x, x), bracket(b, x)), 0.5)


def normal_along_the_tokens(b: Builder, x: str) -> str:
    return layer_norm(b, x, axis=1)


def scaled_sine(b: Builder, x: str) -> str:
    return times(b, curve(b, "Sin", times(b, x, 2.0)), 3.0)


@pytest.mark.parametrize("function", [gate_of_another, normal_along_the_tokens, scaled_sine])
def test_what_only_looks_like_it_folds(function):
    folded, held = between_layers(function)
    assert folded
    assert not held


def test_a_gelu_of_a_file_stays_bit_for_bit(tmp_path):
    text = (
        "(float[2,5,8] x) => (float[2,5,8] y) "
        "{ m = MatMul(x, w) a = Add(m, b) d = Div(a, two) e = Erf(d) f = Add(e, one) g = Mul(a, f) y = Mul(g, half) }"
    )
    source = model(text, w=(8, 8), b=(8,), two=(1,), one=(1,), half=(1,))
    folded, result = fold_and_check(source, tmp_path)
    assert not result.plan.outcomes
    assert kinds(folded) == kinds(source)
