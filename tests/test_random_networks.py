"""Whatever the plan says, the function stays; what it takes is all that can be had."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.affine import Affine, Floats
from bnfold.attempts import attempt
from bnfold.candidates import candidates
from bnfold.folding import fold
from bnfold.graph import Constant, Graph, Node
from bnfold.plan import Edit, Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants
from bnfold.relation import Mapped, Site
from bnfold.rules import relation
from bnfold.rules.affine import affine_of
from bnfold.solving.axes import frame_axes
from bnfold.why import Why
from tests.auditors import failed
from tests.networks import LAYERS, MOVES, RIVALS, network
from tests.oracle import Array, run, run_graph
from tests.rules.dense import Axes, Row, Rows, solvable

UNKNOWNS = 150  # in a graph whose subsets are searched, densely
BLOCK = 250  # networks a test, so that a failure is soon found again
NUMBERS = {Why.PRECISION, Why.OVERFLOW, Why.UNDERFLOW, Why.GAMMA_ZERO}
LIMIT_OF = {
    ScaleWeight: "weight",
    SetBias: "bias",
    SetConstants: "constants",
    SetBounds: "constants",
    ReplaceByClip: "constants",
    Remove: "remove",
}


def assert_same(graph: Graph, plan: Plan, folded: Graph) -> None:
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=graph.shape(name)) for name in graph.inputs}
    before, after = run_graph(graph, feeds), run_graph(folded, feeds)
    largest = max(_largest(array) for array in chain(before.values(), after.values()))
    for name in graph.outputs:
        distance = np.max(np.abs(before[name] - after[name]), initial=0)
        assert distance <= 1e-9 * _largest(before[name]) + 1e-12 * largest, name
    for name, frames in plan.frames.items():
        if name in after:
            back = after[name]
            for frame in reversed(frames):
                back = frame(back)
            distance = np.abs(before[name] - back)
            for frame in frames:
                told = Affine(frame.axis, (frame.scale != 0).astype(float), np.zeros(frame.channels))
                distance = told(distance)  # a dead channel says nothing
            assert np.max(distance, initial=0) <= 1e-9 * _largest(before[name]) + 1e-12 * largest, name


def _largest(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0))


def assert_units_stay_whole(folded: Graph) -> None:
    """The calls of one module have the same constants."""
    first: dict[str, list[Array]] = {}
    for node in folded.nodes:
        if node.unit:
            constants = [folded.constants[name].load() for name in node.inputs[1:] if name]
            for old, new in zip(first.setdefault(node.unit, constants), constants, strict=True):
                np.testing.assert_allclose(new, old, rtol=1e-10, atol=1e-10 * _largest(old))


def _limit(edit: Edit, node: Node) -> str:
    """Name the limit that would have forbidden an edit."""
    if isinstance(edit, SetConstants) and isinstance(node.op, ops.Recurrent | ops.Bilinear):
        biases = [bias for _, bias in node.op.parts] if isinstance(node.op, ops.Recurrent) else []
        assert len({index in biases for index in edit.constants}) == 1 or not node.limits, edit
        return "bias" if next(iter(edit.constants)) in biases else "weight"
    return LIMIT_OF[type(edit)]


def assert_limits(graph: Graph, plan: Plan) -> None:
    """What can't be rewritten isn't, of any call of the module."""
    limits: dict[str, set[str]] = {}
    for node in graph.nodes:
        limits.setdefault(node.unit or node.name, set()).update(node.limits)
    for edit in plan.edits:
        node = graph.by_name[edit.node]
        assert _limit(edit, node) not in limits[node.unit or node.name], edit
        if isinstance(edit, ScaleWeight) and "weight_in" in node.limits:
            assert np.all(edit.in_factor == 1)


def assert_sound(graph: Graph, level: str) -> None:
    """The same function, an outcome for every affine, no operator more; and folding the result changes nothing."""
    plan = fold(graph, level=level)
    affines = [node.name for node in graph.nodes if isinstance(node.op, (ops.BatchNorm, ops.Affine))]
    assert [outcome.affine for outcome in plan.outcomes] == affines
    assert all(kept.why for kept in plan.kept)
    assert_limits(graph, plan)
    folded = written(graph, plan)
    assert len(folded.nodes) <= len(graph.nodes)
    assert_same(graph, plan, folded)
    assert_units_stay_whole(folded)
    assert_settled(folded, level)


def assert_settled(folded: Graph, level: str) -> None:
    again = fold(folded, level=level)
    assert again.folded == ()
    assert again.edits == ()


def assert_merges(graph: Graph, level: str) -> None:
    """With its linear branches merged, too, the function is the same, and the audit says so; once is enough."""
    plan = fold(graph, level=level, merge=True)
    result = written(graph, plan)
    assert_same(graph, replace(plan, frames={}), result)
    assert failed(graph, plan, result) == []
    again = fold(result, level=level, merge=True)
    assert again.folded == ()
    assert again.edits == ()


def calibrated(graph: Graph, seed: int) -> Graph:
    """Give the statistics of random inputs to every BatchNorm, and a tiny gamma to some."""
    rng = np.random.default_rng(seed)
    known = {name: rng.normal(size=graph.values[name].shape) for name in graph.inputs}
    constants = dict(graph.constants)

    def put(name: str, numbers: Floats) -> None:
        constants[name] = Constant(name, numbers.shape, "float64", lambda: numbers)

    for node in graph.nodes:
        if isinstance(node.op, ops.BatchNorm):
            x = np.moveaxis(known[node.inputs[0]], 1, 0)
            put(node.inputs[3], x.reshape(len(x), -1).mean(axis=1))
            put(node.inputs[4], x.reshape(len(x), -1).var(axis=1))
            if node.inputs[1] and rng.random() < 0.3:
                put(node.inputs[1], constants[node.inputs[1]].load() * 1e-3)
        given = [known[name] if name in known else constants[name].load() if name else None for name in node.inputs]
        results = run(node.op, given, *(graph.values[name].shape for name in node.outputs if name))
        known |= dict(zip(node.outputs, results, strict=True))
    return replace(graph, constants=constants)


@pytest.mark.parametrize("level", ["default", "max"])
def test_what_numbers_refuse_is_refused_again(level: str) -> None:
    """Statistics that are those of the data, as training leaves them: a refusal names the affine that was the cause."""
    refused = 0
    for seed in range(200, 700):
        graph = calibrated(network(seed), seed)
        plan = fold(graph, level=level)
        whys = {reason.why for kept in plan.kept for reason in kept.why}
        if whys & NUMBERS:
            _checked(seed, written(graph, plan), assert_settled, level)
            refused += 1
    assert refused > 5


def test_the_networks_have_every_operator() -> None:
    kinds = {kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, ops.Op)}
    kinds -= {ops.Op, ops.Binary, ops.Unary}  # which no rule ever sees
    assert {type(node.op) for seed in range(300) for node in network(seed, chances=LAYERS).nodes} == kinds


@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("start", range(0, 1000, BLOCK))
def test_the_function_stays(start: int, level: str) -> None:
    for seed in range(start, start + BLOCK):
        _checked(seed, network(seed), assert_sound, level)


@pytest.mark.parametrize("level", ["default", "max"])
def test_the_function_of_networks_with_recurrent_and_bilinear_layers_stays(level: str) -> None:
    for seed in range(BLOCK):
        _checked(seed, network(seed, chances=LAYERS), assert_sound, level)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("start", range(1000, 6000, BLOCK))
def test_the_function_of_many_more_with_recurrent_and_bilinear_layers_stays(start: int, level: str) -> None:
    for seed in range(start, start + BLOCK):
        _checked(seed, network(seed, chances=LAYERS), assert_sound, level)


@pytest.mark.parametrize("level", ["default", "max"])
def test_nothing_better_is_found_around_recurrent_and_bilinear_layers(level: str) -> None:
    for seed in range(200):
        _checked(seed, network(seed, 6, LAYERS, plain=True), assert_honest, level)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("start", range(1000, 16000, BLOCK))
def test_the_function_stays_in_many_more(start: int, level: str) -> None:
    for seed in range(start, start + BLOCK):
        _checked(seed, network(seed), assert_sound, level)


@pytest.mark.parametrize("start", range(0, 500, BLOCK))
def test_merging_keeps_the_function_too(start: int) -> None:
    for seed in range(start, start + BLOCK):
        _checked(seed, network(seed), assert_merges, "default")


@pytest.mark.slow
@pytest.mark.parametrize("start", range(500, 5000, BLOCK))
def test_merging_keeps_the_function_in_many_more(start: int) -> None:
    for seed in range(start, start + BLOCK):
        _checked(seed, network(seed), assert_merges, "default")


def _checked(seed: int, graph: Graph, check: Callable[[Graph, str], None], level: str) -> None:
    try:
        check(graph, level)
    except Exception as error:
        error.add_note(f"seed {seed}, level {level}:\n{graph}")
        raise


def demands(graph: Graph, relaxed: frozenset[str], *, tensors: bool) -> tuple[list[tuple[str, int]], list[Row], Rows]:
    """Give the unknowns of a graph, and the rows that always hold."""
    ties = {node.name: relation(Site(node, graph, node.name in relaxed, tensors)) for node in graph.nodes}
    axes = frame_axes(graph, ties)
    rows = Rows(Site(graph.nodes[0], graph), axes)
    found = [row for node in graph.nodes for row in rows.of(ties[node.name])]
    for name in (*graph.inputs, *graph.outputs):
        found += rows.held(name, Why.OUTPUT)
    for tie in (tie for tied in ties.values() for tie in tied if isinstance(tie, Mapped)):
        for name in {tie.source, tie.target} - _on_axis(tie, axes):
            found += rows.held(name, Why.AXIS)
    for first, other in _calls(graph):
        for left, right in ((first.inputs[0], other.inputs[0]), (first.output, other.output)):
            if left == right:
                continue
            if axes.get(left) == axes.get(right) is not None:
                found += rows.equal(left, right, Why.REPEATED)
            else:
                found += chain(rows.held(left, Why.REPEATED), rows.held(right, Why.REPEATED))
    return [(name, c) for name in axes for c in range(rows.channels(name))], found, rows


def _on_axis(tie: Mapped, axes: Axes) -> set[str]:
    return {name for name in (tie.source, tie.target) if axes.get(name) == tie.axis}


def _calls(graph: Graph) -> Iterator[tuple[Node, Node]]:
    first: dict[str, Node] = {}
    for node in graph.nodes:
        if node.unit and first.setdefault(node.unit, node) is not node:
            yield first[node.unit], node


def better(graph: Graph, plan: Plan, level: str) -> tuple[str, ...] | None:
    """Search all sets of affines, one larger than what the plan folds, for one that the demands allow."""
    affines = [node for node in graph.nodes if isinstance(node.op, (ops.BatchNorm, ops.Affine))]
    kinds = (ops.Relu, ops.Clip, ops.Pad) if level == "max" else (ops.Clip, ops.Pad)
    movable = [node.name for node in graph.nodes if isinstance(node.op, kinds)]
    if len(demands(graph, frozenset(), tensors=False)[0]) > UNKNOWNS:
        return None
    for relaxed in chain.from_iterable(combinations(movable, k) for k in range(len(movable) + 1)):
        unknowns, found, rows = demands(graph, frozenset(relaxed), tensors=level == "max")
        reached = [node for node in affines if _on_axis(relation(Site(node, graph))[0], rows.axes)]
        for chosen in combinations(reached, len(plan.folded) + 1):
            folds = (rows.folded(relation(site)[0], affine_of(site)) for site in (Site(n, graph) for n in chosen))
            if solvable(unknowns, [*found, *chain.from_iterable(folds)]):
                return tuple(node.name for node in chosen)
    return None


def small(seed: int) -> Graph:
    return network(seed, 5, MOVES, plain=True) if seed % 2 else network(seed, 7, RIVALS, plain=True)


def assert_honest(graph: Graph, level: str) -> None:
    """No set of affines that the demands allow is larger than the one that the plan folds."""
    affines = sum(isinstance(node.op, (ops.BatchNorm, ops.Affine)) for node in graph.nodes)
    bends = sum(isinstance(node.op, (ops.Relu, ops.Clip, ops.Pad)) for node in graph.nodes)
    plan = fold(graph, level=level)
    numeric = any(reason.why in NUMBERS for kept in plan.kept for reason in kept.why)
    numeric = numeric or bool(attempt(graph, candidates(graph), level, frozenset()).trouble)
    again = any(isinstance(node.op, ops.BatchNorm) for pair in _calls(graph) for node in pair)
    if plan.kept and affines <= 6 and bends <= 3 and not numeric and not again:
        assert better(graph, plan, level) is None


@pytest.mark.parametrize("level", ["default", "max"])
def test_nothing_better_is_found_by_exhaustive_search(level: str) -> None:
    for seed in range(450):
        _checked(seed, small(seed), assert_honest, level)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("start", range(300, 5300, BLOCK))
def test_nothing_better_is_found_in_many_more(start: int, level: str) -> None:
    for seed in range(start, start + BLOCK):
        _checked(seed, small(seed), assert_honest, level)
