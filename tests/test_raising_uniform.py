"""Affines of one channel: along which axis they are laid, and what becomes of them."""

from collections.abc import Callable

import numpy as np
import pytest

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.auditing import audit
from bnfold.completeness import refuse_incomplete
from bnfold.folding import fold
from bnfold.graph import Graph, Node
from bnfold.raising import raised
from bnfold.why import Why
from tests.building import Builder
from tests.networks import network
from tests.oracle import run_graph
from tests.test_auditing import reader
from tests.test_random_networks import assert_same


def dense(b: Builder, name: str, x: str, out: int = 5) -> str:
    return b.linear(name, x, out)


def before_a_linear(b: Builder) -> str:
    return b.relu("relu", dense(b, "fc", b.batch_norm("bn", b.input(2, 1, 6))))


def behind_a_linear(b: Builder) -> str:
    return b.relu("relu", b.batch_norm("bn", dense(b, "fc", b.input(2, 1, 6))))


def behind_a_bend(b: Builder) -> str:
    x = b.relu("relu", dense(b, "first", b.input(2, 1, 6)))
    return dense(b, "fc", b.batch_norm("bn", x))


def turned(b: Builder) -> str:
    x = b.batch_norm("bn", b.relu("relu", b.input(2, 1, 6)))
    x = b.node("turn", ops.Transpose((0, 2, 1)), [x], (2, 6, 1))
    return b.conv("conv", x, 4, kernel=1, pad=0)


def two_in_a_row(b: Builder) -> str:
    x = b.batch_norm("bn", b.batch_norm("first", dense(b, "fc", b.input(2, 1, 6))))
    return b.relu("relu", x)


def beside_a_vector(b: Builder) -> str:
    """An affine by channel, and one of a single number, both along the Linear's axis."""
    x = dense(b, "fc", b.input(2, 1, 6))
    scale, shift = (b.constant(part, b.rng.normal(size=5)) for part in ("scale", "shift"))
    return b.relu("relu", b.batch_norm("bn", b.node("vector", ops.Affine(2), [x, scale, shift], (2, 1, 5))))


def of_rows(b: Builder) -> str:
    """A single number as a row, which an export writes so."""
    x = b.relu("relu", b.input(1, 6))
    scale, shift = (b.constant(part, b.rng.normal(size=1)) for part in ("scale", "shift"))
    return dense(b, "fc", b.node("bn", ops.Affine(0), [x, scale, shift], (1, 6)))


def repeated(b: Builder) -> str:
    """A single number for each of several channels, of an axis that no layer works on."""
    x = b.relu("relu", b.input(2, 4, 6))
    scale, shift = (b.constant(part, np.full(4, b.rng.normal())) for part in ("scale", "shift"))
    return dense(b, "fc", b.node("bn", ops.Affine(1), [x, scale, shift], (2, 4, 6)))


def before_a_vector(b: Builder) -> str:
    """An affine of one number, and another by channel of another axis behind one of the two that read it."""
    x = b.node("number", ops.Affine(2), [b.conv("conv", b.input(2, 3, 1), 4, kernel=1, pad=0), *one(b)], (2, 4, 1))
    flat = b.node("flat", ops.Reshape(), [x], (2, 4))
    y = b.node("wide", ops.Reshape(), [dense(b, "fc", flat, 4)], (2, 4, 1))
    return b.add("sum", b.relu("relu", b.batch_norm("bn", x)), y)


def one(b: Builder) -> list[str]:
    return [b.constant(part, b.rng.uniform(0.5, 2, 1)) for part in ("scale", "shift")]


GO = [
    before_a_vector,
    before_a_linear,
    behind_a_linear,
    behind_a_bend,
    turned,
    two_in_a_row,
    beside_a_vector,
    of_rows,
    repeated,
]


@pytest.mark.parametrize("build", GO, ids=lambda build: build.__name__)
def test_a_number_for_all_goes_along_the_axis_of_a_layer(build: Callable[[Builder], str]) -> None:
    b = Builder()
    given = b.graph(build(b))
    for graph in (given, raised(given)):
        plan = fold(graph)
        assert plan.kept == ()
        assert_same(graph, plan, folded := written(graph, plan))
        assert all(row.passed for row in audit(graph, plan, reader(folded)))


def own_axis(b: Builder) -> str:
    return b.relu("relu", b.batch_norm("bn", b.conv("conv", b.input(2, 3, 4, 4), 1)))


def of_any_length(b: Builder) -> str:
    return dense(b, "fc", b.batch_norm("bn", b.input(2, 1, 6)))


def of_zero(b: Builder) -> str:
    return dense(b, "fc", b.batch_norm("bn", b.relu("relu", b.input(2, 1, 6)), np.zeros(1)))


def held(b: Builder) -> str:
    return dense(b, "fc", b.batch_norm("bn", b.input(2, 1, 6), limits={"remove": Why.CODE}))


def in_training(b: Builder) -> str:
    return dense(b, "fc", b.batch_norm("bn", b.input(2, 1, 6), limits={"remove": Why.TRAINING}))


@pytest.mark.parametrize("build", [own_axis, of_zero, held, in_training], ids=lambda build: build.__name__)
def test_what_stays_along_its_own_axis(build: Callable[[Builder], str]) -> None:
    b = Builder()
    graph = b.graph(build(b))
    assert node(raised(graph)) == node(graph)


def test_a_length_that_is_a_symbol_is_no_axis() -> None:
    b = Builder()
    graph = b.graph(of_any_length(b))
    values = {
        name: type(value)(name, (*value.shape[:2], "L" if value.shape[2] == 6 else 5), value.dtype)
        for name, value in graph.values.items()
    }
    graph = Graph(graph.inputs, graph.outputs, graph.nodes, values, graph.constants)
    assert node(raised(graph)) == node(graph)


def test_one_that_stays_is_not_rewritten() -> None:
    """Its one number can't become one for each place: whatever else moves, its tensors do not."""
    b = Builder()
    x = b.batch_norm("bn", dense(b, "fc", b.input(2, 1, 6)))
    y = b.batch_norm("other", b.relu("relu", x))
    graph = raised(b.graph(dense(b, "last", y), x))
    plan = fold(graph, skip=["bn"])
    assert [outcome.affine for outcome in plan.folded] == ["other"]
    assert "bn" not in {edit.node for edit in plan.edits}
    assert_same(graph, plan, written(graph, plan))


def test_arithmetic_that_stays_takes_up_what_its_neighbour_did() -> None:
    """Its one number becomes one for each channel, as no BatchNorm of one channel could have it."""
    b = Builder()
    shape, kept = (2, 4, 6), {"limits": {"remove": Why.SKIPPED}}

    def affine(name: str, axis: int, x: str, numbers: np.ndarray, **options: object) -> str:
        operands = [b.constant(f"{name}.{part}", numbers) for part in ("scale", "shift")]
        return b.node(name, ops.Affine(axis), [x, *operands], shape, **options)

    x = b.relu("relu", b.conv("conv", b.input(2, 3, 6), 4, kernel=1, pad=0))
    x = affine("bn", 1, x, b.rng.uniform(-2, 2, 4))
    graph = raised(
        b.graph(affine("number", 2, x, np.full(6, 0.7)), affine("other", 1, x, b.rng.normal(size=4), **kept))
    )
    assert graph.by_name["number"].op == ops.Affine(1)
    plan = fold(graph)
    assert [outcome.affine for outcome in plan.folded] == ["bn"]
    assert_same(graph, plan, folded := written(graph, plan))
    assert all(row.passed for row in audit(graph, plan, reader(folded)))


def test_where_one_axis_does_not_do_another_is_tried() -> None:
    """Along its own axis a layer takes it up, but on a tensor that others read; along the other, none do."""
    b = Builder()
    x = b.input(2, 5, 6)
    number = [b.constant(part, np.full(6, value)) for part, value in (("scale", -1.5), ("shift", 0.3))]
    y = b.node("number", ops.Affine(2), [x, *number], (2, 5, 6))
    rows = b.node("rows", ops.MatMul(), [b.constant("w", b.rng.normal(size=(3, 5))), y], (2, 3, 6))
    graph = raised(b.graph(dense(b, "fc", x), rows))
    plan = fold(graph)
    assert plan.kept == ()
    assert [frame.axis for frame in plan.frames[y]] == [1]
    assert_same(graph, plan, folded := written(graph, plan))
    assert all(row.passed for row in audit(graph, plan, reader(folded)))
    refuse_incomplete(graph, plan)


def test_two_of_one_number_that_lie_along_two_axes_are_laid_along_one() -> None:
    """They cancel; a third affine, along an axis of its own, takes the first one up."""
    b = Builder()

    def affine(name: str, axis: int, x: str, scale: np.ndarray) -> str:
        operands = [b.constant(f"{name}.scale", scale), b.constant(f"{name}.shift", np.zeros_like(scale))]
        return b.node(name, ops.Affine(axis), [x, *operands], (2, 4, 6))

    y = affine("first", 1, b.input(2, 4, 6), np.full(4, -2.0))
    back, other = affine("back", 2, y, np.full(6, -0.5)), affine("other", 1, y, b.rng.uniform(0.5, 2, 4))
    graph = raised(b.graph(back, other))
    plan = fold(graph)
    assert [outcome.affine for outcome in plan.folded] == ["first", "back"]
    assert_same(graph, plan, folded := written(graph, plan))
    assert all(row.passed for row in audit(graph, plan, reader(folded)))


def test_of_two_of_which_one_can_go_the_one_that_could_not_be_rewritten_goes() -> None:
    """The first would have gone into the BatchNorm behind it, which has one channel."""
    b = Builder()
    shape, numbers = (
        (2, 1, 6),
        [[b.constant(f"{name}.{part}", b.rng.uniform(0.5, 2, 6)) for part in "ab"] for name in "fo"],
    )
    x = b.node("first", ops.Affine(2), [b.input(*shape), *numbers[0]], shape)
    y = b.batch_norm("bn", x)
    other = b.node("other", ops.Affine(2), [x, *numbers[1]], shape, limits={"remove": Why.SKIPPED})
    graph = raised(b.graph(y, dense(b, "fc", other)))
    assert graph.by_name["bn"].limits["constants"] is Why.AXIS
    plan = fold(graph)
    assert [outcome.affine for outcome in plan.folded] == ["bn"]
    assert_same(graph, plan, folded := written(graph, plan))
    assert all(row.passed for row in audit(graph, plan, reader(folded)))


def test_a_fold_finds_as_much_whichever_axis_they_lie_along() -> None:
    moved = 0
    for seed in range(400):
        graph = network(seed)
        laid = raised(graph)
        before, after = fold(graph), fold(laid)
        assert len(before.folded) == len(after.folded), seed
        moved += laid.nodes != graph.nodes
        feeds = {name: np.random.default_rng(seed).normal(size=graph.shape(name)) for name in graph.inputs}
        wanted, got = run_graph(graph, feeds), run_graph(written(laid, after), feeds)
        for name in graph.outputs:
            size = np.max(np.abs(wanted[name]), initial=1)
            np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=1e-9 * size)
    assert moved > 0


def node(graph: Graph) -> Node:
    return graph.by_name["bn"]


def test_numbers_that_only_roundings_tell_apart_are_one() -> None:
    """x / c * d is -0.7 x, along the axis of c and d: it goes into what works along another one."""
    b = Builder()
    c = b.rng.uniform(0.1, 3, 6)
    d = -0.7 * c
    assert np.ptp(1 / c * d) > 0
    y = b.batch_norm("bn", b.relu("relu", b.input(2, 4, 6)))
    y = b.node("div", ops.Binary("div"), [y, b.constant("c", c)], (2, 4, 6))
    y = b.node("mul", ops.Binary("mul"), [y, b.constant("d", d)], (2, 4, 6))
    graph = raised(b.graph(b.relu("last", y)))
    plan = fold(graph)
    assert [outcome.affine for outcome in plan.folded] == ["mul"]
    assert_same(graph, plan, written(graph, plan))
