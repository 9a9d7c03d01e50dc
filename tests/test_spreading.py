"""Shifts that pass an operator without a bias, into what is behind it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.auditing import audit
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import SetBias
from bnfold.why import Why
from tests.building import Builder
from tests.networks import MOVES, network
from tests.networks.elementwise import affine
from tests.networks.linear import einsum, linear, mat_mul
from tests.test_auditing import reader
from tests.test_random_networks import assert_same, assert_sound

PRODUCTS = (ops.Einsum, ops.MatMul)
X = (2, 3, 4)


def normed(b: Builder, x: str, name: str = "bn") -> str:
    scale, shift = (b.constant(f"{name}.{part}", b.rng.normal(size=b.shape(x)[-1])) for part in ("scale", "shift"))
    return b.node(name, ops.Affine(len(b.shape(x)) - 1), [x, scale, shift], b.shape(x))


def product(b: Builder, x: str, name: str = "product", out: int = 5) -> str:
    *batch, size = b.shape(x)
    weight = b.constant(f"{name}.w", b.rng.normal(size=(size, out)))
    return b.node(name, ops.Einsum("...i,ij->...j"), [x, weight], (*batch, out))


def straight(b: Builder) -> str:
    return b.linear("fc", product(b, normed(b, b.input(*X))), 2)


def by_a_matmul(b: Builder) -> str:
    x, weight = normed(b, b.input(*X)), b.constant("w", b.rng.normal(size=(4, 5)))
    return b.linear("fc", b.node("product", ops.MatMul(), [x, weight], (2, 3, 5)), 2)


def turned_around(b: Builder) -> str:
    y = product(b, normed(b, b.relu("relu", b.input(*X))))
    return b.conv("fc", b.node("turn", ops.Transpose((0, 2, 1)), [y], (2, 5, 3)), 2, pad=0)


def averaged(b: Builder) -> str:
    y = product(b, normed(b, b.input(*X)))
    return b.linear("fc", b.node("mean", ops.Reduce("mean", (1,), False), [y], (2, 5)), 2)


def two_in_a_row(b: Builder) -> str:
    return b.linear("fc", product(b, product(b, normed(b, b.input(*X)), "product", 6), "second"), 2)


def side_by_side(b: Builder) -> str:
    x = normed(b, b.input(*X))
    joined = b.concat("concat", product(b, x), product(b, x, "second", 3), axis=2)
    return b.linear("fc", joined, 2)


def added_up(b: Builder) -> str:
    x = normed(b, b.input(*X))
    return b.linear("fc", b.add("add", product(b, x), product(b, x, "second")), 2)


def into_another_affine(b: Builder) -> str:
    """An affine that can't go takes the shift up, as a layer would."""
    y = normed(b, product(b, normed(b, b.input(*X))), "kept")
    return b.relu("relu", y)


GO = [straight, by_a_matmul, turned_around, averaged, two_in_a_row, side_by_side, added_up]


def without_biases(graph: Graph) -> Graph:
    """Let no product have a bias."""
    nodes = (
        replace(node, limits={"bias": Why.NO_BIAS})
        if isinstance(node.op, PRODUCTS) and not any(node.inputs[2:])
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize("limited", [False, True], ids=["a bias costs an operator", "there can be no bias"])
@pytest.mark.parametrize("build", GO, ids=lambda build: build.__name__)
def test_the_next_layer_takes_the_shift(build: Callable[[Builder], str], limited: bool) -> None:
    b = Builder()
    graph = b.graph(build(b))
    graph = without_biases(graph) if limited else graph
    plan = fold(graph)
    assert [outcome.affine for outcome in plan.folded] == ["bn"]
    assert {edit.node for edit in plan.edits if isinstance(edit, SetBias)} == {"fc"}
    assert "fc" in plan.folded[0].into
    assert_same(graph, plan, folded := written(graph, plan))
    assert all(row.passed for row in audit(graph, plan, reader(folded)))


def test_an_affine_behind_that_stays_takes_the_shift() -> None:
    b = Builder()
    graph = without_biases(b.graph(into_another_affine(b)))
    plan = fold(graph, skip=["kept"])
    assert [outcome.affine for outcome in plan.folded] == ["bn"]
    assert not any(isinstance(edit, SetBias) for edit in plan.edits)
    assert_same(graph, plan, written(graph, plan))


def into_a_bend(b: Builder) -> str:
    return b.linear("fc", b.relu("relu", product(b, normed(b, b.input(*X)))), 2)


def into_the_output(b: Builder) -> str:
    return product(b, normed(b, b.input(*X)))


def into_padding(b: Builder) -> str:
    y = product(b, normed(b, b.input(*X)))
    return b.conv("conv", b.node("turn", ops.Transpose((0, 2, 1)), [y], (2, 5, 3)), 2)


@pytest.mark.parametrize("build", [into_a_bend, into_the_output, into_padding], ids=lambda build: build.__name__)
def test_where_nothing_behind_takes_a_shift(build: Callable[[Builder], str]) -> None:
    b = Builder()
    graph = b.graph(build(b))
    plan = fold(graph)
    assert {edit.node for edit in plan.edits if isinstance(edit, SetBias)} == {"product"}
    assert_same(graph, plan, written(graph, plan))
    (kept,) = fold(without_biases(graph)).kept
    assert Why.NO_BIAS in {reason.why for reason in kept.why}


def test_one_of_two_readers_takes_it_and_the_other_one_does_not() -> None:
    b = Builder()
    x = normed(b, b.input(*X))
    y = product(b, x)
    graph = without_biases(b.graph(b.linear("fc", y, 2), b.relu("relu", product(b, x, "second"))))
    (kept,) = fold(graph).kept
    assert Why.NO_BIAS in {reason.why for reason in kept.why}


CHANCES = dict.fromkeys(MOVES, 0.05) | {einsum: 3, mat_mul: 4, affine: 6, linear: 4}


@pytest.mark.parametrize("level", ["default", "max"])
def test_the_function_of_random_networks_stays(level: str) -> None:
    handed = 0
    for seed in range(250):
        graph = without_biases(network(seed, chances=CHANCES, plain=True))
        try:
            assert_sound(graph, level)
        except Exception as error:
            error.add_note(f"seed {seed}:\n{graph}")
            raise
        plan = fold(graph, level=level)
        frames = plan.frames
        for node in graph.nodes:
            if "bias" in node.limits and isinstance(node.op, PRODUCTS):
                ends = [
                    any(frame.shift.any() for frame in frames[name])
                    for name in (*node.inputs[:2], node.output)
                    if name in frames
                ]
                handed += len(ends) == 2 and all(ends)
    assert handed > 3
