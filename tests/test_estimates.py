"""Means and variances that follow from the statistics, beside those of samples that the oracle runs through."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from bnfold import ops
from bnfold.affine import Floats
from bnfold.estimates import Estimates, moments
from bnfold.graph import Graph
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
    found, values = moments(graph, [name])[name], sampled(graph)[name]
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
        ("Erf", np.vectorize(math.erf)),
    ],
)
def test_functions_that_no_rule_knows(kind: str, function: Callable[[Floats], Floats]) -> None:
    build, x = start()
    graph = build.graph(x)
    y = build.node("op", ops.Unknown(kind), [x], build.shape(x))
    values = function(sampled(graph)[x])
    found = moments(build.graph(y), [y])[y]
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
    found = moments(build.graph(silu), [silu])[silu]
    assert np.allclose(found.mean, (values / (1 + np.exp(-values))).mean(axis=(0, 2, 3)), atol=0.04)


def test_a_sum_adds_the_moments_up() -> None:
    build, x = start()
    other = build.batch_norm("other", build.input(SAMPLES, 4, 1, 1, name="z"))
    total = build.node("sum", ops.Sum((1.0, -2.0)), [x, other], build.shape(x))
    found = moments(build.graph(total), [total])
    assert np.allclose(found[total].mean, found[x].mean - 2 * found[other].mean)
    assert np.allclose(found[total].variance, found[x].variance + 4 * found[other].variance)


def test_a_concat_with_what_nobody_knows_is_known_in_part() -> None:
    build, x = start()
    other = build.input(SAMPLES, 2, 1, 1, name="other")
    joined = build.concat("joined", other, x)
    found = moments(build.graph(joined), [joined])[joined]
    assert np.isnan(found.mean[:2]).all()
    assert np.isfinite(found.mean[2:]).all()


def test_behind_an_affine_of_unknown_statistics_a_normalised_tensor_is_supposed() -> None:
    build = Builder()
    x = build.conv("conv", build.input(2, 3, 4, 4), 5)
    scale, shift = (build.constant(name, build.rng.normal(size=5)) for name in ("scale", "shift"))
    y = build.node("affine", ops.Affine(1), [x, scale, shift], build.shape(x))
    found = moments(build.graph(y), [y])
    assert x not in found
    assert np.allclose(found[y].mean, np.zeros(5))
    assert np.allclose(found[y].variance, np.ones(5))


def test_a_written_out_activation_is_one_function() -> None:
    """x * relu6(x + 3) / 6, as three operators; as if its factors were independent, its mean came to half of that."""
    build, x = start()
    three, nothing, one, sixth = (build.constant(f"c{k}", np.full(4, v)) for k, v in enumerate((3.0, 0.0, 1.0, 1 / 6)))
    moved = build.node("moved", ops.Affine(1), [x, one, three], build.shape(x))
    clipped = build.node("clipped", ops.Clip(0.0, 6.0), [moved], build.shape(x))
    product = build.node("product", ops.Product(), [x, clipped], build.shape(x))
    y = build.node("scaled", ops.Affine(1), [product, sixth, nothing], build.shape(x))
    require_near(build.graph(y), y)


def test_a_difference_of_two_functions_of_one_tensor() -> None:
    build, x = start()
    y = build.node("y", ops.Sum((1.0, -0.5)), [build.relu("relu", x), x], build.shape(x))
    require_near(build.graph(y), y)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_linear_operator_without_statistics_behind_it(groups: int) -> None:
    build, x = start()
    y = build.conv("conv", build.relu("relu", x), 6, kernel=1, pad=0, groups=groups)
    require_near(build.graph(y), y)


def test_a_transposed_convolution_with_strides_sees_a_part_of_its_kernel() -> None:
    build = Builder(seed=5)
    x = build.relu("relu", build.batch_norm("bn", build.input(4, 3, 40, 40)))
    weight = build.constant("weight", build.rng.normal(size=(3, 5, 2, 2)))
    op = ops.ConvTranspose((2, 2), (1, 1), ((0, 0), (0, 0)), (0, 0))
    y = build.node("up", op, [x, weight], (4, 5, 80, 80))
    graph = build.graph(y)
    mean, variance = (graph.constants[f"bn.running_{role}"].load().reshape(1, -1, 1, 1) for role in ("mean", "var"))
    noise = np.random.default_rng(0).normal(size=(4, 3, 40, 40))
    values = run_graph(graph, {"x": mean + np.sqrt(variance) * noise})[y]
    assert np.allclose(moments(graph, [y])[y].mean, values.mean(axis=(0, 2, 3)), atol=0.05)


@pytest.mark.parametrize("groups", [1, 2])
def test_statistics_behind_a_convolution_tell_of_its_unknown_input(groups: int) -> None:
    build = Builder(seed=6)
    x = build.input(2, 4, 8, 8)
    y = build.conv("conv", x, 12, kernel=3, pad=0, groups=groups)
    build.batch_norm("bn", y)
    mean, of_x = np.array([0.5, -1.0, 2.0, 0.1]), 0.3
    weight, bias = (build.constants[f"conv.{role}"].load() for role in ("weight", "bias"))
    rows = [slice(k * 12 // groups, (k + 1) * 12 // groups) for k in range(groups)]
    seen = [weight[part].sum(axis=(2, 3)) @ one for part, one in zip(rows, np.split(mean, groups), strict=True)]
    build.constant("bn.running_mean", np.concatenate(seen) + bias)
    build.constant("bn.running_var", of_x * np.square(weight).sum(axis=(1, 2, 3)))
    graph = build.graph("bn.y")
    estimates = Estimates(graph)
    for node in graph.nodes:
        estimates.step(node)
    assert np.allclose(estimates.found[x].mean, mean, atol=0.05)
    assert np.allclose(estimates.found[x].variance, of_x, rtol=1e-3)


OFF = np.array([1e-3, -2e-3, 5e-4, 1e-3])


GAIN = np.array([2e-3, 1e-3, -3e-3, 1e-3])


def off_at(build: Builder, x: str, y: str, off: Floats, gain: Floats) -> None:
    """Let the output of bn be off, and compare what is off behind with that of samples that were moved."""
    graph = build.graph(y)
    estimates = Estimates(graph)
    for node in graph.nodes:
        estimates.step(node)
        if node.output == x:
            estimates.found[x] = estimates.found[x].leaning(off, gain)
    found = estimates.found[y]
    mean, variance = (graph.constants[f"bn.running_{role}"].load().reshape(1, -1, 1, 1) for role in ("mean", "var"))
    values = mean + np.sqrt(variance) * np.random.default_rng(0).normal(size=(SAMPLES, 4, 1, 1))
    scale = graph.constants["bn.weight"].load() / np.sqrt(graph.constants["bn.running_var"].load() + 1e-5)
    moved = values + (off / scale).reshape(1, -1, 1, 1) + gain.reshape(1, -1, 1, 1) * (values - mean)
    others = tuple(axis for axis in range(4) if axis != found.axis)
    outputs = run_graph(graph, {"x": values})[y]
    error = run_graph(graph, {"x": moved})[y] - outputs
    assert np.allclose(found.off, error.mean(axis=others), rtol=0.05, atol=2e-5)
    along = (error * (outputs - outputs.mean(axis=others, keepdims=True))).mean(axis=others)
    assert np.allclose(found.gain, along / outputs.var(axis=others), rtol=0.1, atol=2e-4)
    assert np.abs(found.off).max() > 2e-4
    assert np.abs(found.gain).max() > 2e-4


def test_what_is_off_runs_through_activations_and_layers() -> None:
    build, x = start()
    off_at(build, x, build.conv("conv", build.relu("relu", x), 4, kernel=1, pad=0), OFF, GAIN)


def test_what_is_off_runs_through_sums_and_layouts() -> None:
    build, x = start()
    bent = build.relu("relu", x)
    taken = build.node("taken", ops.Take(1, (2, 0, 3, 1)), [bent], build.shape(x))
    off_at(build, x, build.node("sum", ops.Sum((1.0, -2.0)), [taken, bent], build.shape(x)), OFF, GAIN)


def test_what_is_off_runs_through_a_gate_by_itself() -> None:
    build, x = start()
    values = sampled(build.graph(x))[x]
    sigmoid = build.node("sigmoid", ops.Unknown("Sigmoid"), [x], build.shape(x))
    graph = build.graph(build.node("silu", ops.Product(), [x, sigmoid], build.shape(x)))
    estimates = Estimates(graph)
    for node in graph.nodes:
        estimates.step(node)
        if node.output == x:
            estimates.found[x] = estimates.found[x].leaning(OFF, np.zeros(4))
    slope = (1 + np.exp(-values) * (1 + values)) / (1 + np.exp(-values)) ** 2
    assert np.allclose(estimates.found["silu.y"].off, OFF * slope.mean(axis=(0, 2, 3)), rtol=0.05)


def test_only_what_makes_the_wanted_is_looked_at() -> None:
    build, x = start()
    other = build.relu("other", x)
    wanted = build.node("wanted", ops.Abs(), [x], build.shape(x))
    assert moments(build.graph(wanted, other), [wanted]).keys() == {"x", x, wanted}
