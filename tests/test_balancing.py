"""What a plan in half precision is rounded against: means of the inputs, biases, and what is off before a layer."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from bnfold import ops
from bnfold.affine import Floats
from bnfold.balancing import with_balance
from bnfold.folding import fold
from bnfold.graph import Constant, Graph
from bnfold.plan import Balance, Plan, Remove, ScaleWeight, SetBias, SetConstants
from bnfold.relation import Site
from bnfold.rounding import nearest, scaled
from bnfold.rules.linear import contraction
from bnfold.why import Why
from tests.building import Builder

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SAMPLES = 200_000


def representable(graph: Graph, *names: str) -> Graph:
    """Give constants (all, where none is named) numbers of the graph's dtype."""
    chosen = names or tuple(graph.constants)
    return replace(graph, constants={**graph.constants, **{name: _nearest(graph.constants[name]) for name in chosen}})


def _nearest(constant: Constant) -> Constant:
    numbers = nearest(constant.load(), constant.dtype)
    return Constant(constant.name, constant.shape, constant.dtype, lambda: numbers)


def trunk(dtype: str) -> Graph:
    """linear -> BatchNorm -> ReLU -> linear -> BatchNorm; the statistics are those of a standard normal input."""
    build = Builder(dtype=dtype)
    x = build.linear("linear1", build.input(2, 6), 24)
    weight, bias = (build.constants[f"linear1.{role}"].load() for role in ("weight", "bias"))
    x = build.batch_norm("bn1", x)
    build.constant("bn1.running_mean", bias)
    build.constant("bn1.running_var", np.square(weight).sum(axis=1))
    graph = build.graph(build.batch_norm("bn2", build.linear("linear2", build.relu("relu", x), 5)))
    return representable(graph) if dtype in KINDS else graph


def edits_of(plan: Plan) -> tuple[dict[str, ScaleWeight], dict[str, Floats]]:
    weights = {edit.node: edit for edit in plan.edits if isinstance(edit, ScaleWeight)}
    return weights, {edit.node: edit.bias for edit in plan.edits if isinstance(edit, SetBias)}


def rounded(graph: Graph, name: str, plan: Plan) -> tuple[Floats, Floats, Floats]:
    """Give a linear node's new weight, exact and as it is stored, and its bias as it is stored."""
    weights, biases = edits_of(plan)
    linear = contraction(Site(graph.by_name[name], graph))
    assert linear is not None
    weight = graph.constants[linear.weight]
    exact = scaled(linear, weight, replace(weights[name], balance=None))
    return exact, scaled(linear, weight, weights[name]), nearest(biases[name], weight.dtype)


@pytest.mark.parametrize("dtype", KINDS)
def test_the_plan_says_what_a_weight_is_balanced_against(dtype: str) -> None:
    graph = trunk(dtype)
    plan = fold(graph)
    weights, biases = edits_of(plan)
    first, second = weights["linear1"].balance, weights["linear2"].balance
    assert first is not None
    assert second is not None
    assert np.allclose(first.mean, 0.0, atol=0.02), "of the model's input, as bn1's running mean tells it"
    assert np.array_equal(first.residue, nearest(biases["linear1"], dtype) - biases["linear1"])
    normal = np.random.default_rng(0).normal(size=(SAMPLES, 1))
    gamma, beta = (graph.constants[f"bn1.{role}"].load() for role in ("weight", "bias"))
    assert np.allclose(second.mean, np.maximum(gamma * normal + beta, 0).mean(axis=0), atol=0.02)


@pytest.mark.parametrize("dtype", KINDS)
def test_what_a_layer_leaves_is_made_up_for_by_the_next(dtype: str) -> None:
    """An input without a mean can't make up for linear1's rounding: samples tell what of it reaches linear2."""
    graph = trunk(dtype)
    plan = fold(graph)
    _, bias = edits_of(plan)
    exact, stored, stored_bias = rounded(graph, "linear1", plan)
    x = np.random.default_rng(1).normal(size=(SAMPLES, 6))
    off = np.maximum(x @ stored.T + stored_bias, 0) - np.maximum(x @ exact.T + bias["linear1"], 0)
    exact, stored, stored_bias = rounded(graph, "linear2", plan)
    balance = edits_of(plan)[0]["linear2"].balance
    assert balance is not None
    true = exact @ off.mean(axis=0) + stored_bias - bias["linear2"]
    told = balance.residue + exact @ (balance.gain * balance.mean)
    assert np.allclose(told, true, rtol=0.1, atol=0.1 * np.abs(true).max())
    left, of_nearest = ((one - exact) @ balance.mean + true for one in (stored, nearest(exact, dtype)))
    assert np.abs(left).sum() < 0.2 * np.abs(of_nearest).sum()


@pytest.mark.parametrize("kind", ["BatchNorm", "Affine"])
def test_the_rounding_of_a_kept_affine_is_made_up_for(kind: str) -> None:
    """It stays beside the model's output, in another frame; the layer behind it makes up for its new constants."""
    build = Builder(dtype="float16")
    x = build.batch_norm("bn", build.input(2, 4, 3, 3))
    bent = build.relu("relu", x)
    if kind == "BatchNorm":
        y = build.batch_norm("kept", bent)
    else:
        operands = [build.constant(f"kept.{role}", build.rng.normal(size=4)) for role in ("scale", "shift")]
        y = build.node("kept", ops.Affine(1), [bent, *operands], build.shape(bent))
    graph = representable(build.graph(build.conv("conv", y, 5, kernel=1, pad=0)))
    numbers = {
        index: graph.constants[name].load() * 1.001
        for index, name in enumerate(graph.by_name["kept"].inputs)
        if 0 < index < 3
    }
    edits = [SetConstants("kept", numbers), ScaleWeight("conv", np.full(5, 1.1), np.ones(4))]
    told = {edit.node: edit for edit in with_balance(graph, {}, edits) if isinstance(edit, ScaleWeight)}
    plain = {edit.node: edit for edit in with_balance(graph, {}, edits[1:]) if isinstance(edit, ScaleWeight)}
    balance, before = told["conv"].balance, plain["conv"].balance
    assert isinstance(balance, Balance)
    assert isinstance(before, Balance)
    assert not before.residue.any()
    assert not before.gain.any()
    scale, shift = numbers[1], numbers[2]
    if kind == "BatchNorm":
        mean, deviation = (graph.constants[f"kept.running_{role}"].load() for role in ("mean", "var"))
        spread = 1 / np.sqrt(deviation + 1e-5)
    else:
        mean, spread = np.zeros(4), np.ones(4)
    gamma, beta = (graph.constants[f"bn.{role}"].load() for role in ("weight", "bias"))
    read = np.maximum(gamma * np.random.default_rng(0).normal(size=(SAMPLES, 1)) + beta, 0).mean(axis=0)
    read = mean if kind == "BatchNorm" else read  # what it reads has its running mean
    moved = (nearest(scale, "float16") - scale) * (read - mean) * spread + nearest(shift, "float16") - shift
    weight = graph.constants["conv.weight"].load()[:, :, 0, 0]
    told = balance.residue + 1.1 * weight @ (balance.gain * balance.mean)
    assert np.allclose(told, 1.1 * weight @ moved, rtol=0.1, atol=1e-5)
    assert np.abs(told).max() > 1e-4
    assert np.allclose(balance.gain, nearest(scale, "float16") / scale - 1)
    assert np.abs(balance.gain).max() > 1e-4


@pytest.mark.parametrize("dtype", KINDS)
def test_what_a_block_leaves_in_a_trunk_is_made_up_for(dtype: str) -> None:
    """The input of the block's last layer is unknown; the trunk's statistics tell what its new bias leaves."""
    build = Builder(dtype=dtype)
    x, unknown = build.input(2, 6), build.node("own", ops.Unknown("own"), [build.input(2, 4, name="z")], (2, 4))
    build.batch_norm("before", x)
    total = build.node("sum", ops.Sum((1.0, 1.0)), [x, build.linear("block", unknown, 6)], (2, 6))
    y = build.linear("next", build.relu("relu", build.batch_norm("after", total)), 5)
    graph = representable(build.graph("before.y", y))
    bias = np.full(6, 0.3001)
    edits = [SetBias("block", bias), ScaleWeight("next", np.full(5, 1.1), np.ones(6))]
    told = {edit.node: edit for edit in with_balance(graph, {}, edits) if isinstance(edit, ScaleWeight)}
    balance, block = told["next"].balance, told["block"].balance
    assert balance is not None
    assert block is not None
    linear = contraction(Site(graph.by_name["block"], graph))
    assert linear is not None
    weight = graph.constants["block.weight"].load()
    moved = (scaled(linear, graph.constants["block.weight"], told["block"]) - weight) @ block.mean + block.residue
    values = np.random.default_rng(0).normal(size=(SAMPLES, 6))
    deviation = np.sqrt(graph.constants["after.running_var"].load())
    gamma, beta = (graph.constants[f"after.{role}"].load() for role in ("weight", "bias"))
    slope = gamma / np.sqrt(deviation**2 + 1e-5)
    read = slope * deviation * values + beta
    off = (np.maximum(read + slope * moved, 0) - np.maximum(read, 0)).mean(axis=0)
    exact = 1.1 * graph.constants["next.weight"].load()
    true, found = exact @ off, balance.residue + exact @ (balance.gain * balance.mean)
    assert np.allclose(found, true, rtol=0.1, atol=0.05 * np.abs(true).max())
    assert np.abs(true).max() > 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wider_types_are_rounded_to_the_nearest(dtype: str) -> None:
    assert all(edit.balance is None for edit in fold(trunk(dtype)).edits if isinstance(edit, ScaleWeight))


def shifted(dtype: str, **options: object) -> Graph:
    """BatchNorm -> ReLU -> conv -> BatchNorm by a shift alone (gamma / sqrt(var + eps) is 1)."""
    build = Builder(dtype=dtype)
    x = build.batch_norm("bn1", build.input(2, 3, 4, 4))
    x = build.conv("conv", build.relu("relu", x), 4, bias=False)
    scale, shift = build.constant("scale", np.ones(4)), build.constant("shift", np.array([0.7, -1.3, 0.1, 2.9]))
    graph = representable(build.graph(build.node("affine", ops.Affine(1), [x, scale, shift], build.shape(x))))
    limited = [replace(node, **options) if node.name == "conv" else node for node in graph.nodes]
    wide = Constant("shift", (4,), "float64", lambda: np.array([0.7, -1.3, 0.1, 2.9]))
    return replace(graph, nodes=tuple(limited), constants={**graph.constants, "shift": wide})


def test_a_weight_beside_a_new_bias_is_balanced_where_it_may_change() -> None:
    assert [type(edit) for edit in fold(shifted("float16")).edits] == [ScaleWeight, SetBias, Remove]
    held = shifted("float16", limits={"weight": Why.SHARED})
    assert [type(edit) for edit in fold(held).edits] == [SetBias, Remove]
