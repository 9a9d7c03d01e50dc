"""A fold of a fold's result changes nothing, in networks whose affines lie along several axes of the same tensors."""

from collections.abc import Callable, Sequence
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
from bnfold.plan import Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants
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


def in_turn(*axes: int, dead: bool = False) -> Graph:
    """Affines along one axis, another, and the first again, which two layers without a bias take up.

    dead: the last one multiplies a channel by 0, and adds something.
    """
    b = Grid()
    x = b.along("second", 2, b.along("first", 1, b.input(*BOTH)))
    for number, axis in enumerate(axes or (1, 2, 1)):
        is_last = dead and number == len(axes) - 1
        x = b.affine(f"affine{number}", axis, x, shifted=is_last)
        if is_last:
            b.constant(
                f"affine{number}.scale", b.constants[f"affine{number}.scale"].load() * (np.arange(BOTH[axis]) != 1)
            )
    return b.graph(x)


def in_turn_on_data() -> Graph:
    """The same with shifts, on a constant that is data: it takes any frame, and their order counts."""
    b = Grid()
    y = b.node("data", ops.Parameter(), [b.constant("numbers", b.rng.normal(size=BOTH))], BOTH)
    for number, axis in enumerate((1, 2, 1)):
        y = b.affine(f"affine{number}", axis, y)
    return b.graph(b.relu("relu", b.add("sum", b.along("first", 2, b.input(*BOTH)), y)))


# Of a grid's seeds: a tensor of each has three frames or four, at one of the levels at least.
LONG = (2308, 12769, 21448, 24126, 25268, 28715, 30064, 37063, 39099, 41673, 41776, 51075, 53323)


def longest(plan: Plan) -> int:
    return max((len(chain) for chain in plan.frames.values()), default=0)


def assert_once_is_enough(graph: Graph, level: str) -> Plan:
    plan = fold(graph, level=level)
    result = written(graph, plan)
    assert_same(graph, plan, result)
    assert_settled(result, level)
    assert failed(graph, plan, result) == []
    refuse_incomplete(graph, plan)
    return plan


@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(400), id="first"),
        pytest.param(LONG, id="long"),
        *(pytest.param(range(k, k + 1000), id=str(k), marks=pytest.mark.slow) for k in range(400, 18400, 1000)),
    ],
)
def test_once_is_enough_along_two_axes(seeds: Sequence[int], level: str) -> None:
    lengths = []
    for seed in seeds:
        graph = grid(seed)
        try:
            lengths.append(longest(assert_once_is_enough(graph, level)))
        except Exception as error:
            error.add_note(f"seed {seed}:\n{graph}")
            raise
    assert sum(length > 1 for length in lengths) > 3
    assert seeds is not LONG or sum(length > 2 for length in lengths) > 10


@pytest.mark.parametrize("network", [in_turn, in_turn_on_data])
def test_a_tensor_that_changes_in_turn_has_a_frame_for_each_change(network: Callable[[], Graph]) -> None:
    plan = assert_once_is_enough(network(), "default")
    assert not plan.kept
    (chain,) = (chain for chain in plan.frames.values() if len(chain) > 2)
    assert [frame.axis for frame in chain] == [1, 2, 1]


@pytest.mark.parametrize("axes", [(1, 2), (2, 1, 2), (1, 2, 1, 2)], ids=str)
def test_a_channel_that_nobody_sees_lies_along_one_of_several_axes(axes: tuple[int, ...]) -> None:
    plan = assert_once_is_enough(in_turn(*axes, dead=True), "default")
    assert not plan.kept
    chain = plan.frames["second.y"]
    assert [frame.axis for frame in chain] == list(axes)
    assert [frame.scale.tolist().index(0) for frame in chain if not frame.scale.all()] == [1]


@pytest.mark.parametrize("level", ["default", "max"])
def test_a_channel_that_two_affines_multiply_by_zero_is_given_what_suits_the_second(level: str) -> None:
    """That has no shift: in front of a kink it goes where its dead channel is given 0, once the first is gone."""
    b = Grid()
    x = b.along("layer", 2, b.input(*BOTH))
    for name, is_shifted in (("first", True), ("second", False)):
        x = b.affine(name, 2, x, is_shifted)
        b.constant(f"{name}.scale", np.array([0.0, 0.5, 2.0, 1.5]))
        b.constant(f"{name}.shift", b.constants[f"{name}.shift"].load() + np.array([is_shifted, 0, 0, 0]))
        x = b.relu("relu", x) if name == "first" else x
    plan = assert_once_is_enough(b.graph(x), level)
    assert [outcome.affine for outcome in plan.folded] == ["first", "second"]


@pytest.mark.parametrize("network", [in_turn, in_turn_on_data])
def test_a_plan_with_three_frames_of_one_tensor_reads_back_from_json(network: Callable[[], Graph]) -> None:
    graph = network()
    plan = fold(graph)
    back = plan_json.loads(plan_json.dumps(plan, graph), graph)
    assert plan_json.dumps(back, graph) == plan_json.dumps(plan, graph)
    assert {name: [frame.axis for frame in chain] for name, chain in back.frames.items()} == {
        name: [frame.axis for frame in chain] for name, chain in plan.frames.items()
    }
    assert failed(graph, back, written(graph, back)) == []


def test_a_wrong_factor_is_found_beside_several_frames() -> None:
    for graph in (in_turn(), next(graph for graph in map(grid, range(400)) if longest(fold(graph)) > 1)):
        plan = fold(graph)
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


def chained(*axes: int) -> tuple[Affine, ...]:
    """Frames along these axes, no two alike."""
    return tuple(Affine(axis, np.array([2.0, 3.0]) + k, np.array([1.0, k])) for k, axis in enumerate(axes))


def test_frames_along_different_axes_are_kept_in_their_order() -> None:
    one, other, third = chained(1, 2, 1)
    assert composed_frames({"x": (one,)}, {"y": (other, third)}, {"x": "y"}) == {"x": (one, other, third)}
    assert composed_frames({"x": (one,)}, {}, {"x": "y", "z": "z"}) == {"x": (one,)}
    assert composed_frames({}, {"y": (one, other)}, {"x": "y"}) == {"x": (one, other)}
    assert composed_frames({"gone": (one,)}, {"gone": (other,)}, {}) == {"gone": (one,)}


def test_frames_along_one_axis_are_joined_in_their_order() -> None:
    """T = 2 T' + 1 and T' = 3 T'' + 5 give T = 6 T'' + 11."""
    one, other = (Affine(1, np.full(2, scale), np.full(2, shift)) for scale, shift in ((2.0, 1.0), (3.0, 5.0)))
    ((frame,),) = composed_frames({"x": (one,)}, {"y": (other,)}, {"x": "y"}).values()
    assert (frame.scale.tolist(), frame.shift.tolist()) == ([6, 6], [11, 11])


def test_frames_that_undo_each_other_are_none_and_make_neighbours_of_others() -> None:
    half = Affine(2, np.full(2, 0.5), np.zeros(2))
    one, other, third = *chained(1), half.inverse(), chained(1)[0]
    ((frame,),) = composed_frames({"x": (one, half)}, {"y": (other, third)}, {"x": "y"}).values()
    assert (frame.scale.tolist(), frame.shift.tolist()) == ([4, 9], [3, 0])
    assert composed_frames({"x": (half,)}, {"y": (other,)}, {"x": "y"}) == {}
