"""Frames along several axes of one tensor: what the audits make of them, and that they find every fault in them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.adapters.onnx_audit import Audit, AuditError
from bnfold.affine import Affine, Chain, Floats
from bnfold.auditing.frames import Seen, Term, UntoldError, ratios, refuse_unlike, seen
from bnfold.folding import fold
from bnfold.graph import SLAB, Graph
from bnfold.plan import Plan, Remove, ScaleWeight, SetBias, SetConstants
from tests.auditors import failed
from tests.test_settling import BOTH, Grid, in_turn, in_turn_on_data

SHAPE = (2, 3, 4)
EVERY = {0: 0, 1: 1, 2: 2}


def drawn(*axes: int, seed: int = 0) -> Chain:
    rng = np.random.default_rng(seed)
    return tuple(Affine(axis, rng.uniform(0.5, 2, SHAPE[axis]), rng.normal(size=SHAPE[axis])) for axis in axes)


def evaluated(frames: Chain, new: float) -> Floats:
    """Give T for a T' that is one number everywhere."""
    whole = np.full(SHAPE, new)
    for frame in reversed(frames):
        whole = frame(whole)
    return whole


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("axes", [(), (1,), (2,), (1, 2), (2, 1), (1, 2, 1), (2, 0, 1, 2, 0, 1)], ids=str)
def test_what_is_seen_of_frames_is_what_they_do(axes: tuple[int, ...], axis: int) -> None:
    frames = drawn(*axes)
    found = seen(frames, axis, SHAPE[axis], EVERY)
    everywhere = {other: np.ones(SHAPE[other]) for other in range(3) if other != axis}
    one = Seen(np.ones(SHAPE[axis]), everywhere, ())
    shift = evaluated(frames, 0.0)
    scale = [Term(found.scale, found.elsewhere, found.scale)]
    for wanted, terms in ((evaluated(frames, 1.0) - shift, scale), (shift, found.shifts)):
        ((numbers, sizes),) = ratios(terms, one)
        np.testing.assert_allclose(numbers, np.moveaxis(wanted, axis, -1).reshape(-1, SHAPE[axis]), rtol=1e-12)
        assert np.all(sizes * max(1, len(axes)) >= np.abs(numbers) * (1 - 1e-12))


def test_a_frame_along_an_axis_that_does_not_pass_is_refused() -> None:
    with pytest.raises(UntoldError, match="axis 2"):
        seen(drawn(1, 2), 1, 3, {0: 0})
    with pytest.raises(UntoldError, match="3 channels where there are 5"):
        seen(drawn(1), 1, 5)


def test_scales_that_are_not_the_same_behind_are_refused() -> None:
    x, y = ({0: np.array(numbers)} for numbers in ([1.0, 2.0], [1.0, 2.0 + 1e-8]))
    refuse_unlike(x, x)
    refuse_unlike(x, {**x, 1: np.ones(3)})
    for other in (y, {}, {1: x[0]}, {0: np.ones(3)}):
        with pytest.raises(UntoldError):
            refuse_unlike(x, other)


def test_positions_where_nothing_is_said_are_left_out() -> None:
    one = Seen(np.ones(3), {2: np.array([1.0, 0.0, 2.0])}, ())
    ((numbers, _),) = ratios([Term(np.arange(3.0), {}, np.arange(3.0))], one)
    np.testing.assert_array_equal(numbers, [[0, 1, 2], [0, 0.5, 1]])


def test_all_positions_are_looked_at_in_little_memory() -> None:
    size = 3000
    frames = Affine(0, np.ones(size), np.arange(size) / size), Affine(1, np.full(7, 2.0), np.zeros(7))
    other = Affine(2, np.ones(size), np.zeros(size))
    blocks = (len(numbers) for numbers, _ in ratios(seen((*frames, other), 1, 7, EVERY).shifts, seen((), 1, 7)))
    assert sum(blocks) == size
    everywhere = Seen(np.ones(7), {0: np.ones(size), 2: np.ones(size // 10)}, ())
    count = 0
    for numbers, _ in ratios([], everywhere):
        assert numbers.size <= SLAB
        count += len(numbers)
    assert count == size * size // 10


def order_counts() -> tuple[Graph, Plan]:
    """y = W x, x = p x' along axis 1, y = p (a y' + d), d along axis 2: W' = W / a, b' = -d / a."""
    b = Grid()
    graph = b.graph(b.along("second", 2, b.along("first", 1, b.input(*BOTH))))
    (passing,) = (replace(frame, shift=np.zeros(3)) for frame in drawn(1))
    (own,) = drawn(2, seed=1)
    edits = (
        ScaleWeight("first", 1 / passing.scale, np.ones(3)),
        ScaleWeight("second", 1 / own.scale, np.ones(4)),
        SetBias("second", -own.shift / own.scale),
    )
    return graph, Plan((), edits, {"first.y": (passing,), "second.y": (passing, own)})


def folded(network: Callable[[], Graph]) -> Callable[[], tuple[Graph, Plan]]:
    return lambda: ((graph := network()), fold(graph))


NETWORKS = {"scales": folded(in_turn), "data": folded(in_turn_on_data), "layer": order_counts}


def faults(frames: Chain) -> Iterator[tuple[str, Chain]]:
    """Give the frames with one fault each."""
    for k, frame in enumerate(frames):
        before, behind, mark = frames[:k], frames[k + 1 :], np.arange(frame.channels) == 1
        yield "drop", (*before, *behind)
        yield "scale", (*before, replace(frame, scale=np.where(mark, 1.0001, 1) * frame.scale), *behind)
        yield "shift", (*before, replace(frame, shift=frame.shift + 1e-4 * mark), *behind)
        yield "another axis", (*before, Affine(0, frame.scale[:2], frame.shift[:2]), *behind)
        if behind:
            yield "swap", (*before, behind[0], frame, *behind[1:])


def is_refused(graph: Graph, plan: Plan) -> bool:
    """Whether the audit of an ONNX write refuses the frames; what weights it writes it looks at as it writes them."""
    try:
        for check in (Audit.removed, Audit.linear, Audit.parameters):
            check(Audit(graph, plan))
    except AuditError as error:
        assert "nothing was written" in str(error)  # noqa: PT017  both ways are right here
        return True
    return False


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_right_passes(network: str) -> None:
    graph, plan = NETWORKS[network]()
    assert failed(graph, plan, written(graph, plan)) == []
    assert not is_refused(graph, plan)


@pytest.mark.parametrize("kind", ["drop", "scale", "shift", "another axis", "swap"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_fault_in_one_of_several_frames_is_found(network: str, kind: str) -> None:
    graph, plan = NETWORKS[network]()
    now, tried = written(graph, plan), 0
    for name, frames in plan.frames.items():
        for found, wrong in faults(frames):
            same = found == "swap" and np.allclose(evaluated(frames, 0), evaluated(wrong, 0))
            if found != kind or same:  # scales alone have no order
                continue
            tried += 1
            planted = replace(plan, frames={**plan.frames, name: wrong})
            assert failed(graph, planted, now), (name, wrong)
            # The layers' own scales are looked at as the weights are written.
            by_weight = network == "layer" and kind in ("scale", "drop") and name == "second.y"
            assert is_refused(graph, planted) or by_weight, (name, wrong)
    assert tried or (network, kind) == ("scales", "swap")


def test_a_weight_that_stays_where_several_frames_change_it_is_found() -> None:
    graph, plan = NETWORKS["scales"]()
    for left in (edit for edit in plan.edits if isinstance(edit, ScaleWeight)):
        wrong = replace(plan, edits=tuple(edit for edit in plan.edits if edit is not left))
        assert (left.node, "weight") in [(row.node, row.part) for row in failed(graph, wrong, written(graph, wrong))]
        assert is_refused(graph, wrong)


@pytest.mark.parametrize("position", [0, 2])
def test_a_bias_that_is_right_at_one_position_only_is_found(position: int) -> None:
    """With the frames in the other order no bias is right: y = a (p y') + d wants -d / (a p), which differs by p."""
    graph, plan = order_counts()
    passing, own = plan.frames["second.y"]
    edits = (*plan.edits[:2], SetBias("second", -own.shift / (own.scale * passing.scale[position])))
    wrong = replace(plan, edits=edits, frames={**plan.frames, "second.y": (own, passing)})
    assert [(row.node, row.part) for row in failed(graph, wrong, written(graph, wrong))] == [("second", "bias")]
    assert is_refused(graph, wrong)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param({"first.y": (1, True, False)}, id="scale before"),
        pytest.param({"second.y": (1, True, False)}, id="scale behind"),
        pytest.param({"first.y": (1, False, True)}, id="shift before"),
        pytest.param({"second.y": (1, False, True)}, id="shift behind"),
        pytest.param({"x": (2, True, False), "first.y": (2, True, False)}, id="axis of the kernel"),
    ],
)
def test_one_frame_that_cannot_pass_a_layer_is_found(frames: dict[str, tuple[int, bool, bool]]) -> None:
    graph, _ = order_counts()
    chains = {}
    for name, (axis, is_scaled, is_shifted) in frames.items():
        (frame,) = drawn(axis)
        chains[name] = (Affine(axis, frame.scale**is_scaled, frame.shift * is_shifted),)
    plan = Plan((), (), chains)
    assert failed(graph, plan, graph)
    assert is_refused(graph, plan)


def test_dead_channels_along_another_axis_that_somebody_sees_are_found() -> None:
    """An affine along axis 1 that went, between frames that say that nobody sees a part of axis 2."""
    b = Grid()
    x = b.affine("gone", 1, b.along("first", 1, b.input(*BOTH)), shifted=False)
    graph = b.graph(b.relu("relu", x))
    inverse = Affine(1, 1 / graph.constants["gone.scale"].load(), np.zeros(3))
    dead = Affine(2, np.array([1.0, 0.0, 1.0, 1.0]), np.zeros(4))
    edits = ScaleWeight("first", 1 / inverse.scale, np.ones(3)), Remove("gone")
    right = Plan((), edits, {"first.y": (inverse,)})
    assert failed(graph, right, written(graph, right)) == []
    wrong = replace(right, frames={"first.y": (inverse, dead), "gone.y": (dead,)})
    assert ("gone", "frames") in [(row.node, row.part) for row in failed(graph, wrong, written(graph, wrong))]


def test_a_kept_affine_is_what_the_frames_say_at_every_position() -> None:
    """y = s x + t, x = p x', y = p (a y' + d): s' = s / a, and t' = -d / a where t = 0."""
    b = Grid()
    graph = b.graph(b.affine("kept", 2, b.along("first", 1, b.input(*BOTH)), shifted=False))
    (passing,) = (replace(frame, shift=np.zeros(3)) for frame in drawn(1))
    (own,) = drawn(2, seed=1)
    constants = {1: graph.constants["kept.scale"].load() / own.scale, 2: -own.shift / own.scale}
    edits = ScaleWeight("first", 1 / passing.scale, np.ones(3)), SetConstants("kept", constants)
    right = Plan((), edits, {"first.y": (passing,), "kept.y": (passing, own)})
    assert failed(graph, right, written(graph, right)) == []
    for chain in ((own, passing), (own,), (passing,)):
        wrong = replace(right, frames={**right.frames, "kept.y": chain})
        assert "kept" in [row.node for row in failed(graph, wrong, written(graph, wrong))], chain


def dead(axis: int, shape: tuple[int, ...], *behind: Affine) -> tuple[Graph, Plan]:
    """Let an affine go whose channel 1 is a constant, which the layer in front gives, along its own axis 2.

    behind: frames of all three tensors.
    """
    b = Grid()
    weight = b.constant("weight", b.rng.normal(size=(shape[2], shape[2])))
    x = b.node("second", ops.Linear(), [b.input(*shape), weight], shape)
    seen_channels = np.arange(shape[axis]) != 1
    scale, shift = b.rng.uniform(0.5, 2, shape[axis]) * seen_channels, np.where(seen_channels, 0.0, 3.0)
    x = b.node("gone", ops.Affine(axis), [x, b.constant("scale", scale), b.constant("shift", shift)], shape)
    frame = Affine(2, np.where(seen_channels, 1 / np.where(seen_channels, scale, 1), 0), np.zeros(shape[axis]))
    edits = ScaleWeight("second", scale, np.ones(shape[2])), SetBias("second", shift), Remove("gone")
    frames = {"x": behind, "second.y": (*behind, frame), "gone.y": behind}
    return b.graph(b.relu("relu", x)), Plan((), edits, {name: chain for name, chain in frames.items() if chain})


def test_a_dead_channel_ends_at_an_affine_along_its_own_axis() -> None:
    graph, plan = dead(2, (2, 3, 3))
    assert failed(graph, plan, written(graph, plan)) == []
    graph, plan = dead(1, (2, 3, 3))
    assert "second" in [row.node for row in failed(graph, plan, written(graph, plan))]


def test_a_dead_channel_whose_constant_other_frames_would_spread_is_found() -> None:
    """Behind the affine T = p T' along axis 1: no one number of the layer is t / p."""
    (passing,) = (replace(frame, shift=np.zeros(3)) for frame in drawn(1))
    graph, plan = dead(2, (2, 3, 4), passing)
    assert [row.node for row in failed(graph, plan, written(graph, plan))] == ["second"]
