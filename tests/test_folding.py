"""Whole graphs: what is folded into what, what stays and why, and that the function is the same."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.errors import BnfoldError
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Plan
from bnfold.why import Why
from tests.building import Builder
from tests.oracle import run_graph


def check(graph: Graph, *, level: str = "default", **options: object) -> Plan:
    """Fold; the function is the same to float64's rounding, and folding again changes nothing."""
    plan = fold(graph, level=level, **options)
    folded = written(graph, plan)
    rng = np.random.default_rng(1)
    feeds = {name: rng.normal(size=graph.shape(name)) for name in graph.inputs}
    before, after = run_graph(graph, feeds), run_graph(folded, feeds)
    for old, new in zip(graph.outputs, folded.outputs, strict=True):
        assert_allclose(after[new], before[old], rtol=1e-9, atol=1e-9 * np.abs(before[old]).max())
    for name, (frame,) in plan.frames.items():
        if name in after:
            told = np.flatnonzero(frame.scale)
            old = np.take(before[name], told, frame.axis)
            new = np.take(frame(after[name]), told, frame.axis)
            assert_allclose(new, old, rtol=1e-9, atol=1e-9 * (1 + np.abs(old).max()))
    again = fold(folded, level=level, **options)
    assert again.folded == ()
    assert again.edits == ()
    return plan


def into(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {outcome.affine: outcome.into for outcome in plan.folded}


def whys(plan: Plan) -> dict[str, set[Why]]:
    return {outcome.affine: {reason.why for reason in outcome.why} for outcome in plan.kept}


def behind(build: Callable[[Builder, str], str]) -> Graph:
    """conv -> what is built -> BatchNorm -> relu -> padded conv."""
    b = Builder()
    x = build(b, b.conv("conv", b.input(2, 3, 8, 8), 6))
    return b.graph(b.conv("next", b.relu("relu", b.batch_norm("bn", x)), 2))


SHUFFLE = ops.Rearrange((("reshape", (2, 2, 3, 8, 8)), ("transpose", (0, 2, 1, 3, 4)), ("reshape", (2, 6, 8, 8))))
BACKWARD = [
    pytest.param(lambda b, x: x, ("conv",), id="directly"),
    pytest.param(lambda b, x: b.node("id", ops.Identity(), [x], b.shape(x)), ("conv",), id="identity"),
    pytest.param(lambda b, x: b.conv("mid", x, 6, bias=False, groups=3), ("mid",), id="grouped, no bias"),
    pytest.param(lambda b, x: b.concat("cat", x, b.conv("other", "x", 4)), ("conv", "other"), id="concat"),
    pytest.param(lambda b, x: b.add("add", x, b.conv("other", "x", 6)), ("conv", "other"), id="add"),
    pytest.param(lambda b, x: b.node("pool", ops.AvgPool(False), [x], (2, 6, 7, 7)), ("conv",), id="average pooling"),
    pytest.param(
        lambda b, x: b.node("shuffle", SHUFFLE, [x], (2, 6, 8, 8)),
        ("conv",),
        id="channel shuffle",
    ),
    pytest.param(
        lambda b, x: b.node("cut", ops.Take(1, (4, 0, 5)), [x], (2, 3, 8, 8)), ("conv",), id="slice of channels"
    ),
]


@pytest.mark.parametrize(("build", "takers"), BACKWARD)
def test_folds_backward(build: Callable[[Builder, str], str], takers: tuple[str, ...]) -> None:
    assert into(check(behind(build))) == {"bn": takers}


def test_folds_back_through_channels_that_part() -> None:
    """A generator's linear layer, whose features become channels and pixels: each channel is several features."""
    b = Builder()
    maps = b.node("reshape", ops.Reshape(), [b.linear("fc", b.input(2, 5), 12)], (2, 3, 2, 2))
    graph = b.graph(b.conv("next", b.relu("relu", b.batch_norm("bn", maps)), 2))
    assert into(check(graph)) == {"bn": ("fc",)}


def test_features_that_become_one_channel_have_one_frame() -> None:
    b = Builder()
    features = b.batch_norm("bn", b.relu("first", b.linear("fc", b.input(2, 5), 12)))
    maps = b.node("reshape", ops.Reshape(), [features], (2, 3, 2, 2))
    graph = b.graph(b.conv("next", b.batch_norm("other", maps), 2, 1, pad=0))
    plan = check(graph)
    assert into(plan) == {"other": ("next",)}
    assert Why.RESHAPE in whys(plan)["bn"]


def test_folds_forward_into_an_unpadded_conv() -> None:
    b = Builder()
    graph = b.graph(b.conv("conv", b.batch_norm("bn", b.input(2, 3, 8, 8)), 4, pad=0, bias=False))
    assert into(check(graph)) == {"bn": ("conv",)}


def test_the_border_of_a_padded_conv_keeps_a_shift_but_not_a_scale() -> None:
    b = Builder()
    graph = b.graph(b.conv("conv", b.batch_norm("bn", b.input(2, 3, 8, 8)), 4))
    assert whys(check(graph)) == {"bn": {Why.INPUT, Why.PADDING}}
    b = Builder()
    x = b.batch_norm("bn", b.input(2, 3, 8, 8))
    shift = b.constants["bn.weight"].load() / np.sqrt(b.constants["bn.running_var"].load() + 1e-5)
    b.constant("bn.bias", b.constants["bn.running_mean"].load() * shift)
    assert into(check(b.graph(b.conv("conv", x, 4)))) == {"bn": ("conv",)}


def test_folds_through_flatten_into_a_linear() -> None:
    b = Builder()
    x = b.batch_norm("bn", b.node("relu", ops.Relu(), [b.input(2, 3, 4, 5)], (2, 3, 4, 5)))
    graph = b.graph(b.linear("fc", b.node("flat", ops.Reshape(), [x], (2, 60)), 7))
    assert into(check(graph)) == {"bn": ("fc",)}


def test_one_batch_norm_before_several_readers() -> None:
    b = Builder()
    x = b.batch_norm("bn", b.relu("relu", b.input(2, 3, 4, 4)))
    graph = b.graph(*(b.conv(name, x, 4, 1, 0) for name in ("q", "k", "v")))
    assert into(check(graph)) == {"bn": ("q", "k", "v")}


def test_a_conv_that_is_read_elsewhere_gives_way_to_its_batch_norm_only_where_the_other_reader_can_follow() -> None:
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 8, 8), 4)
    follows = b.graph(b.relu("relu", b.batch_norm("bn", x)), b.conv("other", x, 2, pad=0))
    assert into(check(follows)) == {"bn": ("conv", "other")}
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 8, 8), 4)
    seen = b.graph(b.relu("relu", b.batch_norm("bn", x)), x)
    assert whys(check(seen))["bn"] >= {Why.OUTPUT}


def trunk(b: Builder, gamma: Callable[[str], np.ndarray | None], blocks: int = 3) -> Graph:
    """A pre-activation residual network without a BatchNorm that stands right behind the conv."""
    x = b.conv("stem", b.input(2, 3, 6, 6), 5)
    for i in range(blocks):
        y = b.relu(f"relu{i}", b.batch_norm(f"bn{i}", x, gamma(x)))
        x = b.add(f"add{i}", x, b.conv(f"conv{i}", y, 5))
    return b.graph(b.conv("head", b.relu("relu", b.batch_norm("bn", x, gamma(x))), 2))


def test_a_preactivation_trunk_folds_whole_where_gamma_is_positive() -> None:
    b = Builder()
    plan = check(trunk(b, b.positive))
    assert plan.kept == ()
    assert len(plan.folded) == 4


def test_a_channel_that_is_negative_in_every_batch_norm_of_the_trunk_changes_sign() -> None:
    b = Builder()
    assert check(trunk(b, lambda x: b.positive(x) * [1, -1, 1, -1, -1])).kept == ()


def test_signs_that_disagree_stay_with_the_order_as_the_reason() -> None:
    b = Builder()
    signs = iter([[1, 1, 1, 1, 1], [1, 1, -1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    plan = check(trunk(b, lambda x: b.positive(x) * next(signs)))
    assert whys(plan) == {"bn1": {Why.ORDER, Why.RIVAL}} or Why.ORDER in whys(plan)["bn1"]
    assert check(trunk(Builder(), lambda x: None), level="max").kept == ()


def dense(b: Builder) -> Graph:
    x = b.conv("stem", b.input(2, 3, 6, 6), 4)
    for i in range(3):
        y = b.conv(f"squeeze{i}", b.relu(f"relu{i}", b.batch_norm(f"bn{i}", x)), 5, 1, 0, bias=False)
        y = b.conv(f"grow{i}", b.relu(f"relu{i}b", b.batch_norm(f"bn{i}b", y)), 2, bias=False)
        x = b.concat(f"cat{i}", x, y)
    return b.graph(b.linear("fc", b.node("pool", ops.Reduce("mean", (2, 3), False), [x], (2, 10)), 3))


def test_densenet_keeps_what_several_batch_norms_read_and_folds_it_at_max() -> None:
    plan = check(dense(Builder()))
    assert {f"bn{i}b" for i in range(3)} <= {outcome.affine for outcome in plan.folded}
    assert all(reasons & {Why.KINK, Why.ORDER} for reasons in whys(plan).values())
    assert plan.kept
    assert check(dense(Builder()), level="max").kept == ()


def test_batch_norm_over_another_axis_than_the_linear_s() -> None:
    """Eight tools fold this on the wrong axis: Linear over L, BatchNorm1d over C, and L == C."""
    b = Builder()
    graph = b.graph(b.batch_norm("bn", b.linear("fc", b.input(2, 5, 5), 5)))
    assert whys(check(graph))["bn"] >= {Why.AXIS}


def test_calls_of_one_module_agree_or_stay() -> None:
    b = Builder()
    x = b.input(2, 4)
    y = b.linear("fc", x, 4, unit="fc")
    y = b.node("fc#2", ops.Linear(), [y, "fc.weight", "fc.bias"], (2, 4), unit="fc")
    assert Why.REPEATED in whys(check(b.graph(b.batch_norm("bn", y))))["bn"]
    b = Builder()
    first = b.linear("fc", b.input(2, 4), 4, unit="fc")
    second = b.node("fc#2", ops.Linear(), [b.input(2, 4, name="z"), "fc.weight", "fc.bias"], (2, 4), unit="fc")
    one = b.batch_norm("bn", first, unit="bn")
    two = b.node("bn#2", ops.BatchNorm(1e-5), [second, *b.nodes[-1].inputs[1:]], (2, 4), unit="bn")
    assert into(check(b.graph(one, two))) == {"bn": ("fc", "fc#2"), "bn#2": ("fc", "fc#2")}


GAMMA_WITH_ZEROS = np.array([1.5, 0, -2, 0])


def test_gamma_zero_makes_rows_zero() -> None:
    b = Builder()
    x = b.batch_norm("bn", b.conv("conv", b.input(2, 3, 6, 6), 4), GAMMA_WITH_ZEROS)
    graph = b.graph(b.conv("next", b.relu("relu", x), 2))
    plan = check(graph)
    assert into(plan) == {"bn": ("conv",)}
    weight = written(graph, plan).constants["conv.1"].load()
    assert not weight[[1, 3]].any()
    assert weight[[0, 2]].all()


@pytest.mark.parametrize("skip", [(), ("bn",), ("bn2",)])
@pytest.mark.parametrize("between", ["", "relu", "leaky", "abs", "pool"])
@pytest.mark.parametrize("first", ["conv", "relu"])
def test_gamma_zero_behind_another_affine_makes_rows_zero(first: str, between: str, skip: tuple[str, ...]) -> None:
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 6, 6), 4)
    x = b.relu("early", x) if first == "relu" else x
    x = b.batch_norm("bn", x, np.array([1.5, -0.5, 2, 0]))
    if between:
        op = {"leaky": ops.LeakyRelu(0.1), "abs": ops.Abs(), "pool": ops.AvgPool(False), "relu": ops.Relu()}[between]
        x = b.node(between, op, [x], (2, 4, 6, 6))
    x = b.batch_norm("bn2", x, np.array([1.5, 0, 2, 0]))
    plan = check(b.graph(b.conv("next", x, 2, pad=0)), skip=skip)
    assert "bn2" in into(plan) or "bn2" in skip


def test_a_constant_that_padding_counts_into_keeps_gamma_zero_until_it_is_folded() -> None:
    b = Builder()
    x = b.batch_norm("bn", b.conv("conv", b.input(2, 3, 6, 6), 4), np.array([1.5, -0.5, 2, 0.5]))
    x = b.node("pool", ops.AvgPool(True), [x], (2, 4, 6, 6))
    graph = b.graph(b.conv("next", b.batch_norm("bn2", x, GAMMA_WITH_ZEROS), 2, pad=0))
    assert whys(check(graph, skip=("bn",)))["bn2"] == {Why.GAMMA_ZERO}
    assert into(check(graph)).keys() == {"bn", "bn2"}


def test_gamma_zero_stays_where_somebody_else_reads_the_input() -> None:
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 6, 6), 4)
    graph = b.graph(b.batch_norm("bn", x, GAMMA_WITH_ZEROS), b.conv("other", x, 2, pad=0))
    assert whys(check(graph)) == {"bn": {Why.GAMMA_ZERO}}


def test_a_gate_takes_scales_from_both_sides() -> None:
    b = Builder()
    x = b.input(2, 3, 4, 4)
    left, right = b.conv("left", x, 4), b.conv("right", x, 4)
    product = b.node("gate", ops.Product(), [left, right], (2, 4, 4, 4))
    graph = b.graph(b.conv("next", b.batch_norm("bn", product), 2, pad=0))
    assert into(check(graph)) == {"bn": ("next",)}
    graph = b.graph(b.batch_norm("bn2", product))
    assert whys(check(graph))["bn2"] == {Why.GATE, Why.OUTPUT}


@pytest.mark.parametrize(
    ("role", "value", "why"),
    [("running_var", -1.0, Why.VARIANCE), ("weight", np.nan, Why.NOT_FINITE), ("running_mean", np.inf, Why.NOT_FINITE)],
)
def test_broken_statistics_are_refused_by_name(role: str, value: float, why: Why) -> None:
    b = Builder()
    x = b.batch_norm("bn", b.conv("conv", b.input(2, 3, 6, 6), 4))
    broken = b.constants[f"bn.{role}"].load().copy()
    broken[2] = value
    b.constant(f"bn.{role}", broken)
    plan = fold(b.graph(x))
    assert whys(plan) == {"bn": {why}}
    assert plan.edits == ()


def test_a_small_gamma_on_a_trunk_would_drown_it() -> None:
    b = Builder()
    plan = check(trunk(b, lambda x: b.positive(x) * (1e-4 if x == "add0.y" else 1)))
    assert whys(plan) == {"bn1": {Why.PRECISION}}


def test_the_refusal_names_the_one_whose_shift_drowns_the_tensor() -> None:
    """Two read one tensor: "small" would move it by far; "free", into a conv, goes along with any frame."""
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 6, 6), 4)
    small, free = b.batch_norm("small", x, np.full(4, 1e-4)), b.batch_norm("free", x)
    for role in ("running_mean", "running_var"):
        b.constant(f"free.{role}", b.constants[f"small.{role}"].load())
    plan = check(b.graph(b.conv("next", b.relu("relu", small), 2), b.conv("other", free, 2, pad=0)))
    assert whys(plan) == {"small": {Why.PRECISION}}
    assert set(into(plan)) == {"free"}


@pytest.mark.parametrize("other", ["twin", "conv"])
def test_twins_of_small_gammas_go_together_unless_another_reads_the_tensor(other: str) -> None:
    """What the twins' tensor becomes is what each gave its readers; a conv that reads it too would see it drowned."""
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 6, 6), 4)
    small, twin = b.batch_norm("small", x, np.full(4, 1e-3)), b.batch_norm("twin", x, np.full(4, 1e-3))
    for role in ("bias", "running_mean", "running_var"):
        b.constant(f"twin.{role}", b.constants[f"small.{role}"].load())
    total = b.add("sum", small, twin)
    outputs = (total,) if other == "twin" else (total, b.conv("other", x, 2, pad=0))
    plan = check(b.graph(*outputs))
    assert whys(plan) == ({} if other == "twin" else {"small": {Why.PRECISION}, "twin": {Why.PRECISION}})


@pytest.mark.parametrize("disguised", [False, True], ids=["affine", "as a file writes it"])
def test_an_affine_that_is_written_as_a_batch_norm_tells_nothing_of_its_input(disguised: bool) -> None:
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 6, 6), 4)
    operands = [b.constant("plain.scale", np.full(4, 1e-3)), b.constant("plain.shift", b.rng.normal(size=4))]
    if disguised:
        operands += [b.constant("plain.mean", np.zeros(4)), b.constant("plain.var", np.ones(4))]
    plain = b.node("plain", ops.BatchNorm(0.0) if disguised else ops.Affine(1), [x, *operands], b.shape(x))
    plan = check(b.graph(plain, b.conv("next", x, 2, pad=0)))
    assert whys(plan) == {}
    assert set(into(plan)) == {"plain"}


def test_a_batch_norm_of_another_path_does_not_drown_a_tensor() -> None:
    """What "far" says of the tensor, and "own" doesn't, would leave "own" with numbers 200 deviations from zero."""
    b = Builder()
    x = b.conv("conv", b.input(2, 3, 6, 6), 4)
    far, own = b.batch_norm("far", x), b.batch_norm("own", b.add("twice", x, x))
    for name, mean in (("far", 100), ("own", 10)):
        b.constant(f"{name}.running_mean", b.constants[f"{name}.running_mean"].load() + mean)
    plan = check(b.graph(far, own))
    assert whys(plan) == {"far": {Why.PRECISION}}
    assert set(into(plan)) == {"own"}


def test_float16_weights_that_would_overflow() -> None:
    b = Builder(dtype="float16")
    x = b.batch_norm("bn", b.conv("conv", b.input(2, 3, 6, 6), 4), np.array([1, 2, 3, 3e5]))
    plan = fold(b.graph(x))
    assert whys(plan) == {"bn": {Why.OVERFLOW}}
    assert plan.edits == ()


@pytest.mark.parametrize(
    ("dtype", "least"),
    [("float16", 2.0**-14), ("bfloat16", 2.0**-126), ("float32", 2.0**-126), ("float64", 2.0**-1022)],
)
def test_weights_that_would_be_subnormal(dtype: str, least: float) -> None:
    def planned(gamma: float) -> Plan:
        b = Builder(dtype=dtype)
        x = b.batch_norm("bn", b.conv("conv", b.input(2, 3, 6, 6), 3), np.array([1, gamma, -1]))
        return fold(b.graph(b.relu("relu", x)))

    assert into(planned(least * 2**8)) == {"bn": ("conv",)}
    plan = planned(least * 2**-12)
    assert whys(plan) == {"bn": {Why.UNDERFLOW}}
    assert plan.edits == ()


def test_an_affine_that_can_not_be_removed_takes_another_up() -> None:
    b = Builder()
    x = b.batch_norm("two", b.batch_norm("one", b.input(2, 3, 8, 8)), limits={"remove": Why.CODE})
    plan = check(b.graph(b.relu("relu", x)))
    assert into(plan) == {"one": ("two",)}
    assert whys(plan) == {"two": {Why.CODE}}


def test_only_and_skip_choose_by_name() -> None:
    b = Builder()
    x = b.batch_norm("a.bn", b.conv("a", b.input(2, 3, 6, 6), 4))
    graph = b.graph(b.batch_norm("b.bn", b.conv("b", x, 4)))
    assert whys(fold(graph, only=["b.*"])) == {"a.bn": {Why.SKIPPED}}
    assert whys(fold(graph, skip=["b.*"])) == {"b.bn": {Why.SKIPPED}}


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(BnfoldError, match="'min' is unknown; it is one of default, max"):
        fold(Graph((), (), (), {}, {}), level="min")


def test_limits_hold_what_an_adapter_can_not_write() -> None:
    b = Builder()
    x = b.batch_norm("bn", b.linear("fc", b.input(2, 3), 4, bias=False, limits={"bias": Why.NO_BIAS}))
    assert whys(check(b.graph(x)))["bn"] == {Why.NO_BIAS, Why.OUTPUT}
    b = Builder()
    x = b.batch_norm("bn", b.linear("fc", b.input(2, 3), 4), limits={"remove": Why.CODE, "constants": Why.CODE})
    assert whys(check(b.graph(x))) == {"bn": {Why.CODE}}


def test_clips_between_uniform_frames_move_their_bounds() -> None:
    b = Builder()
    x = b.node("relu6", ops.Clip(0, 6), [b.conv("conv", b.input(2, 3, 6, 6), 4)], (2, 4, 6, 6))
    scale, shift = b.constant("s", np.full(4, -0.5)), b.constant("t", np.full(4, 0.25))
    y = b.node("affine", ops.Affine(1), [x, scale, shift], (2, 4, 6, 6))
    plan = check(b.graph(y))
    assert "conv" in into(plan)["affine"]


def test_a_thousand_batch_norms_are_planned_alike() -> None:
    b = Builder()
    x = b.input(1, 3, 2, 2)
    for i in range(1000):
        x = b.relu(f"relu{i}", b.batch_norm(f"bn{i}", b.conv(f"conv{i}", x, 3, 1, 0)))
    plan = fold(b.graph(x))
    assert into(plan) == {f"bn{i}": (f"conv{i}",) for i in range(1000)}


def test_channels_that_nobody_can_count() -> None:
    b = Builder()
    x = b.batch_norm("bn", b.input(2, 3, 4, 4))
    graph = b.graph(x)
    unknown = {name: replace(value, shape=None) for name, value in graph.values.items()}
    assert whys(fold(replace(graph, values=unknown))) == {"bn": {Why.UNKNOWN_SHAPE}}


def test_an_affine_whose_constants_are_held_stays_for_the_reason_that_holds_it() -> None:
    b = Builder()
    x = b.batch_norm("bn", b.input(2, 3, 8, 8), limits={"constants": Why.CODE}, unit="bn")
    plan = check(b.graph(b.conv("conv", x, 4)))
    assert whys(plan) == {"bn": {Why.INPUT, Why.PADDING}}
