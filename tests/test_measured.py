"""Statistics of BatchNorms tell of the tensors before them, beside those of samples."""

import numpy as np
import pytest

from bnfold import ops
from bnfold.graph import Graph
from bnfold.measured import measured
from tests.building import Builder
from tests.oracle import run_graph

SAMPLES = 20_000


def statistics_of_samples(build: Builder, graph: Graph) -> dict[str, np.ndarray]:
    """Run the graph on normal samples, and give every BatchNorm the statistics of what it reads there."""
    rng = np.random.default_rng(0)
    values = {name: rng.normal(0.5, 1.5, [int(size or 0) for size in graph.shape(name) or ()]) for name in graph.inputs}
    for node in graph.nodes:
        if isinstance(node.op, ops.BatchNorm):
            x = run_graph(graph, values)[node.inputs[0]]
            others = tuple(axis for axis in range(x.ndim) if axis != 1)
            build.constant(f"{node.name}.running_mean", x.mean(axis=others))
            build.constant(f"{node.name}.running_var", x.var(axis=others))
    return {**values, **run_graph(graph, values)}


def test_a_layout_before_a_batch_norm() -> None:
    """As in a transformer with BatchNorm: (N, L, C) -> (N, C, L) -> BatchNorm."""
    build = Builder(seed=2)
    x = build.linear("linear", build.input(SAMPLES // 4, 4, 3), 5)
    turned = build.node("turned", ops.Transpose((0, 2, 1)), [x], (SAMPLES // 4, 5, 4))
    graph = build.graph(build.batch_norm("bn", turned))
    values = statistics_of_samples(build, graph)
    found = measured(graph)[x]
    assert found.axis == 2
    assert np.allclose(found.mean, values[x].mean(axis=(0, 1)))
    assert np.allclose(found.variance, values[x].var(axis=(0, 1)))


def test_a_layout_that_joins_channels_tells_nothing() -> None:
    build = Builder(seed=2)
    x = build.conv("conv", build.input(4, 3, 2, 2), 5)
    flat = build.node("flat", ops.Reshape(), [x], (4, 20))
    assert measured(build.graph(build.batch_norm("bn", flat))).keys() == {flat}


@pytest.mark.parametrize("coefficients", [(1.0, 1.0), (1.0, -2.0)])
def test_what_a_block_adds_to_a_trunk(coefficients: tuple[float, float]) -> None:
    """The trunk is measured before and after; the operands vary independently here."""
    build = Builder(seed=3)
    x, z = build.input(SAMPLES, 4), build.input(SAMPLES, 3, name="z")
    build.batch_norm("before", x)
    added = build.linear("linear", z, 4)
    total = build.node("sum", ops.Sum(coefficients), [x, added], (SAMPLES, 4))
    graph = build.graph("before.y", build.batch_norm("after", total))
    values = statistics_of_samples(build, graph)
    found = measured(graph)[added]
    assert np.allclose(found.mean, values[added].mean(axis=0))
    assert np.allclose(found.variance, values[added].var(axis=0), rtol=0.1)


def test_an_operand_that_varies_against_the_others_keeps_a_variance() -> None:
    build = Builder(seed=3)
    x = build.input(SAMPLES, 4)
    build.batch_norm("before", x)
    added = build.node("added", ops.Abs(), [x], (SAMPLES, 4))
    total = build.node("sum", ops.Sum((1.0, 1.0)), [x, added], (SAMPLES, 4))
    build.batch_norm("after", total)
    build.constant("after.running_var", build.constants["before.running_var"].load() / 10)
    assert (measured(build.graph("before.y", "after.y"))[added].variance > 0).all()


def test_two_unknown_operands_stay_unknown() -> None:
    build = Builder(seed=3)
    x, z = build.input(4, 5), build.input(4, 5, name="z")
    total = build.node("sum", ops.Sum((1.0, 1.0)), [x, z], (4, 5))
    twice = build.node("twice", ops.Sum((1.0, 1.0)), [total, total], (4, 5))
    assert measured(build.graph(build.batch_norm("bn", twice))).keys() == {twice}
