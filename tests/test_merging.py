"""Merged branches are the same function, by the float64 oracle; what doesn't agree is left as it is."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.merging import find
from bnfold.plan import Folded, Merge, Plan
from bnfold.why import Why
from tests.building import Builder
from tests.oracle import run_graph


def conv(
    b: Builder, name: str, x: str, out: int, kernel: tuple[int, ...], pads: ops.Pads, bias: bool = False, **more: object
) -> str:
    """A convolution of any kernel, padding, stride, dilation, groups and padding mode."""
    batch, channels, *size = b.shape(x)
    ones = (1,) * len(size)
    op = ops.Conv(
        more.get("strides", ones), more.get("dilations", ones), pads, more.get("groups", 1), more.get("mode", "zeros")
    )
    operands = [x, b.constant(f"{name}.weight", b.rng.normal(size=(out, channels // op.groups, *kernel)))]
    if bias:
        operands.append(b.constant(f"{name}.bias", b.rng.normal(size=out)))
    spaces = zip(size, kernel, pads, op.strides, op.dilations, strict=True)
    made = tuple((n + low + high - d * (k - 1) - 1) // s + 1 for n, k, (low, high), s, d in spaces)
    return b.node(name, op, operands, (batch, out, *made))


def same(graph: Graph, plan: Plan) -> Graph:
    """Carry the plan out; the function is the same."""
    result = written(graph, plan)
    feeds = {name: np.random.default_rng(3).normal(size=graph.shape(name)) for name in graph.inputs}
    before, after = run_graph(graph, feeds), run_graph(result, feeds)
    for old, new in zip(graph.outputs, result.outputs, strict=True):
        assert_allclose(after[new], before[old], rtol=1e-10, atol=1e-10 * np.abs(before[old]).max())
    return result


def merged(graph: Graph) -> Graph:
    return same(graph, Plan((), find(graph)))


P0, P1, P2 = ((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 2), (2, 2))


def three_and_one(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P1, bias=True), conv(b, "b", x, 4, (1, 1), P0))


def repvgg(b: Builder, x: str) -> str:
    large = b.batch_norm("bn3", conv(b, "a", x, 4, (3, 3), P1))
    small = b.batch_norm("bn1", conv(b, "b", x, 4, (1, 1), P0, bias=True))
    return b.add("outer", b.add("sum", large, small), b.batch_norm("bn0", x))


def affine_of_x(b: Builder, x: str) -> str:
    return b.add("sum", b.batch_norm("bn", x), conv(b, "a", x, 4, (3, 3), P1))


def affine_behind(b: Builder, x: str) -> str:
    return b.batch_norm("bn", b.add("sum", x, conv(b, "a", x, 4, (3, 3), P1, bias=True)))


def grouped(b: Builder, x: str) -> str:
    return b.add("sum", x, conv(b, "a", x, 4, (3, 3), P1, groups=2), conv(b, "b", x, 4, (1, 1), P0, groups=2))


def depthwise(b: Builder, x: str) -> str:
    return b.add(
        "sum", x, conv(b, "a", x, 4, (5, 5), P2, groups=4), b.batch_norm("bn", conv(b, "b", x, 4, (3, 3), P1, groups=4))
    )


def strided(b: Builder, x: str) -> str:
    two = {"strides": (2, 2)}
    return b.add("sum", conv(b, "a", x, 6, (3, 3), P1, **two), conv(b, "b", x, 6, (1, 1), P0, True, **two))


def dilated(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P2, dilations=(2, 2)), conv(b, "b", x, 4, (1, 1), P0), x)


def asymmetric(b: Builder, x: str) -> str:
    return b.add(
        "sum",
        conv(b, "a", x, 4, (3, 3), P1),
        conv(b, "b", x, 4, (1, 3), ((0, 0), (1, 1))),
        conv(b, "c", x, 4, (3, 1), ((1, 1), (0, 0))),
    )


def one_sided(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 2), ((2, 0), (0, 1))), conv(b, "b", x, 4, (2, 2), ((1, 0), (1, 0))), x)


def reflected(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P1, mode="reflect"), conv(b, "b", x, 4, (1, 1), P0))


def unpadded(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P0), conv(b, "b", x, 4, (3, 3), P0))


def subtracted(b: Builder, x: str) -> str:
    made = conv(b, "a", x, 4, (3, 3), P1, bias=True)
    inner = b.node("inner", ops.Sum((2.0, -0.5)), [made, x], b.shape(x))
    return b.node("sum", ops.Sum((1.0, -3.0)), [conv(b, "b", x, 4, (1, 1), P0, bias=True), inner], b.shape(x))


MERGES: list[Callable[[Builder, str], str]] = [
    three_and_one,
    repvgg,
    affine_of_x,
    affine_behind,
    grouped,
    depthwise,
    strided,
    dilated,
    asymmetric,
    one_sided,
    reflected,
    unpadded,
    subtracted,
]


@pytest.mark.parametrize("inside", [False, True], ids=["at the border", "inside"])
@pytest.mark.parametrize("network", MERGES, ids=lambda network: network.__name__)
def test_one_convolution_is_left(network: Callable[[Builder, str], str], inside: bool) -> None:
    b = Builder()
    x = b.input(2, 4, 7, 9)
    graph = b.graph(b.relu("last", network(b, b.relu("first", x))) if inside else network(b, x))
    result = merged(graph)
    assert [type(node.op) for node in result.nodes if not isinstance(node.op, ops.Relu)] == [ops.Conv]
    assert find(result) == ()


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    b = Builder()
    x = b.input(2, 4, *(5,) * rank)
    y = b.add(
        "sum", conv(b, "a", x, 4, (3,) * rank, ((1, 1),) * rank), conv(b, "b", x, 4, (1,) * rank, ((0, 0),) * rank), x
    )
    assert len(merged(b.graph(y)).nodes) == 1


def other_x(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P1), conv(b, "b", b.relu("r", x), 4, (1, 1), P0))


def other_groups(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P1, groups=2), conv(b, "b", x, 4, (1, 1), P0))


def other_dilation(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P2, dilations=(2, 2)), conv(b, "b", x, 4, (3, 3), P1))


def between_the_taps(b: Builder, x: str) -> str:
    two = {"dilations": (2, 2)}
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P2, **two), conv(b, "b", x, 4, (3, 3), ((1, 3), (2, 2)), **two))


def other_mode(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (3, 3), P1, mode="reflect"), conv(b, "b", x, 4, (3, 3), P1))


def more_work(b: Builder, x: str) -> str:
    return b.add("sum", conv(b, "a", x, 4, (1, 5), ((0, 0), (2, 2))), conv(b, "b", x, 4, (5, 1), ((2, 2), (0, 0))))


def no_convolution(b: Builder, x: str) -> str:
    return b.add("sum", b.batch_norm("bn", x), x)


def activation_between(b: Builder, x: str) -> str:
    return b.add("sum", b.relu("r", conv(b, "a", x, 4, (3, 3), P1)), conv(b, "b", x, 4, (1, 1), P0))


STAYS = [
    other_x,
    other_groups,
    other_dilation,
    between_the_taps,
    other_mode,
    more_work,
    no_convolution,
    activation_between,
]


@pytest.mark.parametrize("network", STAYS, ids=lambda network: network.__name__)
def test_what_does_not_agree_stays(network: Callable[[Builder, str], str]) -> None:
    b = Builder()
    assert find(b.graph(network(b, b.input(2, 4, 9, 9)))) == ()


def test_a_branch_that_is_read_elsewhere_or_is_limited_stays() -> None:
    b = Builder()
    x = b.input(2, 4, 9, 9)
    y = three_and_one(b, x)
    assert find(b.graph(y, "a.y")) == ()
    nodes = [replace(node, limits={"weight": Why.QUANTIZED}) if node.name == "a" else node for node in b.nodes]
    assert find(replace(b.graph(y), nodes=tuple(nodes))) == ()


def test_the_inner_sum_merges_where_the_outer_one_cannot() -> None:
    b = Builder()
    x = b.input(2, 4, 7, 9)
    graph = b.graph(b.add("outer", three_and_one(b, x), b.relu("relu", x)))
    assert [type(node.op).__name__ for node in merged(graph).nodes] == ["Conv", "Relu", "Sum"]


def test_a_kept_batch_norm_that_a_merge_takes_in_is_folded() -> None:
    b = Builder()
    x = b.relu("first", b.input(2, 4, 7, 9))
    graph = b.graph(b.relu("last", repvgg(b, x)))
    alone, plan = fold(graph), fold(graph, merge=True)
    assert [outcome.affine for outcome in alone.kept] == ["bn0"]
    assert plan.kept == ()
    assert Folded("bn0", ("outer",)) in plan.outcomes
    assert [edit.node for edit in plan.edits if isinstance(edit, Merge)] == ["outer"]
    assert [type(node.op).__name__ for node in same(graph, plan).nodes] == ["Relu", "Conv", "Relu"]


def test_a_merge_at_an_output_keeps_its_name() -> None:
    b = Builder()
    graph = b.graph(affine_behind(b, b.input(2, 4, 7, 9)))
    assert same(graph, fold(graph, merge=True)).outputs == graph.outputs


def test_an_affine_that_is_skipped_stays_behind_the_merge() -> None:
    b = Builder()
    graph = b.graph(affine_behind(b, b.input(2, 4, 7, 9)))
    plan = fold(graph, skip=("bn",), merge=True)
    assert [kept.affine for kept in plan.kept] == ["bn"]
    assert [type(node.op).__name__ for node in same(graph, plan).nodes] == ["Conv", "BatchNorm"]


def test_a_merged_convolution_takes_what_the_sum_could_not() -> None:
    b = Builder()
    x = b.add("sum", conv(b, "a", x := b.input(2, 4, 7, 9), 4, (3, 3), P1), x)
    pooled = b.node("pool", ops.MaxPool(), [x], (2, 4, 3, 4))
    graph = b.graph(b.batch_norm("bn", pooled, b.positive(pooled)))
    assert [kept.affine for kept in fold(graph).kept] == ["bn"]
    plan = fold(graph, merge=True)
    assert plan.outcomes == (Folded("bn", ("sum",)),)
    result = same(graph, plan)
    assert [type(node.op).__name__ for node in result.nodes] == ["Conv", "MaxPool"]
    assert fold(result, merge=True).edits == ()


def test_a_merge_takes_in_another() -> None:
    b = Builder()
    x = b.input(2, 4, 7, 9)
    inner = b.batch_norm("bn", b.add("sum", conv(b, "a", x, 4, (3, 3), P1), x))
    graph = b.graph(b.relu("relu", b.add("outer", inner, conv(b, "b", x, 4, (1, 1), P0, bias=True))))
    plan = fold(graph, merge=True)
    (merge,) = plan.merges
    assert merge.node == "outer"
    assert set(merge.nodes) == {"a", "sum", "bn", "b", "outer"}
    assert [type(node.op).__name__ for node in same(graph, plan).nodes] == ["Conv", "Relu"]
