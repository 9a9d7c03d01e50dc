"""Means and variances that follow from the statistics, beside those of samples that the oracle runs through."""

from collections.abc import Callable

import numpy as np
import pytest

from bnfold import ops
from bnfold.affine import Affine, Floats
from bnfold.graph import Graph
from bnfold.moments import Moments, in_frame, moments
from tests.building import Builder
from tests.oracle import run_graph

SAMPLES = 20_000


def start() -> tuple[Builder, str]:
    """x, in the frame of a BatchNorm that says how it is distributed; its output is the second value."""
    build = Builder(seed=5)
    return build, build.batch_norm("bn", build.input(SAMPLES, 4, 1, 1))


def sampled(graph: Graph) -> dict[str, np.ndarray]:
    """Run the graph on normal x with the mean and variance that bn says."""
    mean, variance = (graph.constants[f"bn.running_{role}"].load().reshape(1, -1, 1, 1) for role in ("mean", "var"))
    noise = np.random.default_rng(0).normal(size=(SAMPLES, 4, 1, 1))
    return run_graph(graph, {"x": mean + np.sqrt(variance) * noise})


def require_near(graph: Graph, name: str) -> None:
    found, values = moments(graph)[name], sampled(graph)[name]
    others = tuple(axis for axis in range(values.ndim) if axis != found.axis)
    assert np.allclose(found.mean, values.mean(axis=others), atol=0.04)
    assert np.allclose(found.variance, values.var(axis=others), rtol=0.08, atol=0.01)


BENDS = [ops.Relu(), ops.LeakyRelu(0.1), ops.Abs(), ops.Clip(0.0, 1.5), ops.Clip(None, 0.5), ops.Identity()]


@pytest.mark.parametrize("op", BENDS, ids=str)
def test_an_activation_of_a_normal_variable(op: ops.Op) -> None:
    build, x = start()
    y = build.node("op", op, [x], build.shape(x))
    graph = build.graph(y)
    require_near(graph, x)
    require_near(graph, y)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("aten.sigmoid.default", lambda x: 1 / (1 + np.exp(-x))),
        ("Sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("aten.silu.default", lambda x: x / (1 + np.exp(-x))),
        ("Tanh", np.tanh),
        ("aten.gelu.default", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
        ("HardSwish", lambda x: x * np.clip(x + 3, 0, 6) / 6),
        ("Mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        ("aten.elu.default", lambda x: np.where(x > 0, x, np.exp(x) - 1)),
        ("Softplus", lambda x: np.log1p(np.exp(x))),
    ],
)
def test_functions_that_no_rule_knows(kind: str, function: Callable[[Floats], Floats]) -> None:
    build, x = start()
    graph = build.graph(x)
    y = build.node("op", ops.Unknown(kind), [x], build.shape(x))
    values = function(sampled(graph)[x])
    found = moments(build.graph(y))[y]
    assert np.allclose(found.mean, values.mean(axis=(0, 2, 3)), atol=0.04)
    assert np.allclose(found.variance, values.var(axis=(0, 2, 3)), rtol=0.08, atol=0.01)


def test_what_moves_channels_moves_their_moments() -> None:
    build, x = start()
    flat = build.node("flat", ops.Reshape(), [x], (SAMPLES, 4))
    taken = build.node("taken", ops.Take(1, (2, 0, 3)), [flat], (SAMPLES, 3))
    joined = build.concat("joined", taken, flat)
    graph = build.graph(joined)
    for name in (flat, taken, joined):
        require_near(graph, name)


def test_a_tensor_times_its_own_sigmoid_is_one_function_of_it() -> None:
    build, x = start()
    values = sampled(build.graph(x))[x]
    sigmoid = build.node("sigmoid", ops.Unknown("Sigmoid"), [x], build.shape(x))
    silu = build.node("silu", ops.Product(), [x, sigmoid], build.shape(x))
    found = moments(build.graph(silu))[silu]
    assert np.allclose(found.mean, (values / (1 + np.exp(-values))).mean(axis=(0, 2, 3)), atol=0.04)


def test_a_sum_adds_the_moments_up() -> None:
    build, x = start()
    other = build.batch_norm("other", build.input(SAMPLES, 4, 1, 1, name="z"))
    total = build.node("sum", ops.Sum((1.0, -2.0)), [x, other], build.shape(x))
    found = moments(build.graph(total))
    assert np.allclose(found[total].mean, found[x].mean - 2 * found[other].mean)
    assert np.allclose(found[total].variance, found[x].variance + 4 * found[other].variance)


def test_a_concat_with_what_nobody_knows_is_known_in_part() -> None:
    build, x = start()
    other = build.input(SAMPLES, 2, 1, 1, name="other")
    joined = build.concat("joined", other, x)
    found = moments(build.graph(joined))[joined]
    assert np.isnan(found.mean[:2]).all()
    assert np.isfinite(found.mean[2:]).all()


def test_behind_an_affine_of_unknown_statistics_a_normalised_tensor_is_supposed() -> None:
    build = Builder()
    x = build.conv("conv", build.input(2, 3, 4, 4), 5)
    scale, shift = (build.constant(name, build.rng.normal(size=5)) for name in ("scale", "shift"))
    y = build.node("affine", ops.Affine(1), [x, scale, shift], build.shape(x))
    found = moments(build.graph(y))
    assert x not in found
    assert np.array_equal(found[y].mean, np.zeros(5))
    assert np.array_equal(found[y].variance, np.ones(5))


def test_a_frame_moves_them_as_it_moves_the_tensor() -> None:
    one = Moments(1, np.array([1.0, 2.0]), np.array([4.0, 9.0]))
    moved = in_frame(one, Affine(1, np.array([2.0, -3.0]), np.array([1.0, 5.0])))
    assert moved is not None
    assert np.array_equal(moved.mean, [0.0, 1.0])
    assert np.array_equal(moved.variance, [1.0, 1.0])
    assert in_frame(one, Affine(2, np.full(2, 3.0), np.zeros(2))) is None
