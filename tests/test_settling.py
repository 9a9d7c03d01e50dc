"""A fold of a fold's result changes nothing, in networks whose affines lie along two axes of the same tensors."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bnfold import ops, plan_json
from bnfold.adapters.memory import written
from bnfold.affine import Affine
from bnfold.completeness import refuse_incomplete
from bnfold.composing import composed_edits, composed_frames
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants
from tests.auditors import failed
from tests.building import Builder
from tests.test_random_networks import assert_same, assert_settled

CHANNELS, LENGTH = 3, 4
BOTH = (2, CHANNELS, LENGTH)
POINT = ops.Conv((1,), (1,), ((0, 0),))


class Grid(Builder):
    """Tensors (2, 3, 4), linear layers along either axis, affines along either axis."""

    def along(self, name: str, axis: int, x: str) -> str:
        """A linear layer without a bias."""
        shape, op = ((CHANNELS, CHANNELS, 1), POINT) if axis == 1 else ((LENGTH, LENGTH), ops.Linear())
        return self.node(name, op, [x, self.constant(f"{name}.weight", self.rng.normal(size=shape))], BOTH)

    def affine(self, name: str, axis: int, x: str, shifted: bool = True) -> str:
        size = BOTH[axis]
        scale = self.rng.uniform(0.5, 2, size) * np.where(self.rng.random(size) < 0.2, -1, 1)
        shift = self.rng.normal(size=size) * shifted
        operands = [x, self.constant(f"{name}.scale", scale), self.constant(f"{name}.shift", shift)]
        return self.node(name, ops.Affine(axis), operands, BOTH)


def grid(seed: int) -> Graph:
    b = Grid(seed)
    values = [b.along("first", int(b.rng.integers(1, 3)), b.input(*BOTH))]
    for number in range(int(b.rng.integers(4, 10))):
        x = values[int(b.rng.integers(max(0, len(values) - 2), len(values)))]
        kind = b.rng.choice(["linear", "linear", "affine", "affine", "affine", "affine", "relu", "sum", "gate"])
        name, axis = f"{kind}{number}", int(b.rng.integers(1, 3))
        match kind:
            case "linear":
                values.append(b.along(name, axis, x))
            case "affine":
                values.append(b.affine(name, axis, x, b.rng.random() < 0.6))
            case "relu":
                values.append(b.relu(name, x))
            case "sum":
                values.append(b.add(name, x, values[int(b.rng.integers(len(values)))]))
            case _:
                values.append(b.node(name, ops.Product(), [x, values[-1]], BOTH))
    return alive(b.graph(b.along("last", int(b.rng.integers(1, 3)), values[-1])))


def alive(graph: Graph) -> Graph:
    """Leave out what no output depends on."""
    needed, nodes = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            needed |= {*node.inputs, *node.outputs}
            nodes.append(node)
    values = {name: value for name, value in graph.values.items() if name in needed}
    constants = {name: constant for name, constant in graph.constants.items() if name in needed}
    return Graph(graph.inputs, graph.outputs, tuple(reversed(nodes)), values, constants)


@pytest.mark.parametrize("level", ["default", "max"])
def test_once_is_enough_along_two_axes(level: str) -> None:
    two = 0
    for seed in range(400):
        graph = grid(seed)
        plan = fold(graph, level=level)
        result = written(graph, plan)
        try:
            assert_same(graph, plan, result)
            assert_settled(result, level)
            assert failed(graph, plan, result) == []
            refuse_incomplete(graph, plan)
        except Exception as error:
            error.add_note(f"seed {seed}:\n{graph}")
            raise
        two += bool(plan.inner)
    assert two > 5


def test_a_plan_along_two_axes_reads_back_from_json() -> None:
    seed = next(seed for seed in range(400) if fold(grid(seed)).inner)
    graph = grid(seed)
    plan = fold(graph)
    back = plan_json.loads(plan_json.dumps(plan, graph), graph)
    assert json.loads(plan_json.dumps(back, graph)) == json.loads(plan_json.dumps(plan, graph))
    assert back.inner.keys() == plan.inner.keys()
    assert failed(graph, back, written(graph, back)) == []


def test_a_wrong_factor_is_found_beside_two_frames() -> None:
    graphs = (grid(seed) for seed in range(400))
    graph, plan = next((graph, plan) for graph in graphs if (plan := fold(graph)).inner)
    scaled = [edit for edit in plan.edits if isinstance(edit, ScaleWeight)]
    assert len(scaled) > 1
    for edit in scaled:
        wrong = replace(edit, in_factor=edit.in_factor * 1.001)
        edits = tuple(wrong if other is edit else other for other in plan.edits)
        found = failed(graph, plan, written(graph, replace(plan, edits=edits)))
        assert [(row.node, row.part) for row in found] == [(edit.node, "weight")]


def test_edits_of_one_node_become_one() -> None:
    two, three = np.full(2, 2.0), np.full(2, 3.0)
    first = [ScaleWeight("a", two, three), SetBias("a", two), SetConstants("b", {1: two, 2: two}), SetBounds("c", 0, 1)]
    first += [ReplaceByClip("d", 1, two, two), SetConstants("e", {1: two})]
    second = [ScaleWeight("a", three, three), SetBias("a", three), SetConstants("b", {2: three}), SetBounds("c", 0, 2)]
    second += [SetConstants("d", {2: three}), Remove("e"), SetBias("f", two)]
    weight, bias, constants, bounds, clip, removed, more = composed_edits(first, second)
    assert (weight.out_factor.tolist(), weight.in_factor.tolist()) == ([6, 6], [9, 9])
    assert bias.bias.tolist() == [3, 3]
    assert {index: numbers.tolist() for index, numbers in constants.constants.items()} == {1: [2, 2], 2: [3, 3]}
    assert bounds == SetBounds("c", 0, 2)
    assert (clip.lo.tolist(), clip.hi.tolist()) == ([2, 2], [3, 3])
    assert (removed, more.node) == (Remove("e"), "f")


def test_three_frames_in_turn_are_no_two() -> None:
    one, other = (Affine(axis, np.array([2.0, 3.0]), np.array([1.0, 0.0])) for axis in (1, 2))
    assert composed_frames(({"x": one}, {}), ({"y": one}, {"y": other}), {"x": "y"}) is not None
    assert composed_frames(({"x": one}, {}), ({"y": other}, {"y": one}), {"x": "y"}) is None
    outer, inner = composed_frames(({"x": one}, {}), ({"y": other}, {}), {"x": "y"}) or ({}, {})
    assert (outer["x"], inner["x"]) == (one, other)


def test_frames_along_one_axis_are_joined_in_their_order() -> None:
    """T = 2 T' + 1 and T' = 3 T'' + 5 give T = 6 T'' + 11."""
    one, other = (Affine(1, np.full(2, scale), np.full(2, shift)) for scale, shift in ((2.0, 1.0), (3.0, 5.0)))
    outer, inner = composed_frames(({"x": one}, {}), ({"y": other}, {}), {"x": "y"}) or ({}, {})
    assert (outer["x"].scale.tolist(), outer["x"].shift.tolist(), inner) == ([6, 6], [11, 11], {})
