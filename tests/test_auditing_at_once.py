"""What is asked of many layers at once is what is asked of each: one fault among many layers is found, and named."""

from dataclasses import replace

import numpy as np
import pytest

from bnfold import ops
from bnfold.affine import Affine, Chain, Chains, of_batch_norm
from bnfold.auditing.affines import line
from bnfold.auditing.at_once import PlainBiases, are_identities
from bnfold.auditing.frames import seen
from bnfold.batches import MANY, in_rows
from bnfold.candidates import candidates
from bnfold.graph import Constant, Graph, Node, Value
from bnfold.why import Why

WIDE = MANY // 3  # so that the layers make several rows


def chain_of_norms(count: int = 8, channels: int = WIDE) -> tuple[Graph, Chains]:
    """Give BatchNorms one behind another, with frames between which each is the identity."""
    rng = np.random.default_rng(0)
    constants: dict[str, Constant] = {}
    frames: dict[str, Chain] = {}
    frame = Affine(1, rng.uniform(0.5, 2, channels), rng.normal(size=channels))
    nodes: list[Node] = []
    for k in range(count):
        gamma, beta, mean = rng.normal(size=(3, channels))
        variance = rng.uniform(0.5, 2, channels)
        names = tuple(f"{k}.{part}" for part in ("gamma", "beta", "mean", "variance"))
        for name, numbers in zip(names, (gamma, beta, mean, variance), strict=True):
            constants[name] = Constant(name, numbers.shape, "float64", lambda numbers=numbers: numbers)  # type: ignore[misc]
        nodes.append(Node(f"bn{k}", ops.BatchNorm(1e-3 * (k + 1)), (f"v{k}", *names), (f"v{k + 1}",)))
        frames[f"v{k}"] = (frame,)
        frame = of_batch_norm(1, gamma, beta, mean, variance, 1e-3 * (k + 1)).after(frame)
    frames[f"v{count}"] = (frame,)
    values = {name: Value(name, (2, channels, 3), "float64") for name in frames}
    return Graph(("v0",), (f"v{count}",), tuple(nodes), values, constants), frames


def test_rows_hold_every_layer_once() -> None:
    layers = [
        (np.full(size, float(k)), np.full(size, -float(k))) for k, size in enumerate([3, MANY, 1, 2, MANY + 1, 5])
    ]
    seen_layers: list[float] = []
    for row, (one, other) in in_rows(layers):
        assert (one[0], one[-1]) == (row.start, row.stop - 1)
        np.testing.assert_array_equal(one, -other)
        seen_layers += dict.fromkeys(one.tolist())
    assert seen_layers == [0, 1, 2, 3, 4, 5]
    assert not list(in_rows([]))


def test_affines_that_are_the_identity_pass() -> None:
    graph, frames = chain_of_norms()
    assert are_identities(graph.nodes, graph, frames, 1e-9)
    assert are_identities((), graph, frames, 1e-9)


@pytest.mark.parametrize("part", ["scale", "shift"])
@pytest.mark.parametrize(("layer", "channel"), [(0, 0), (3, WIDE - 1), (8, 5)])
def test_one_wrong_channel_among_many_is_found(part: str, layer: int, channel: int) -> None:
    graph, frames = chain_of_norms()
    (frame,) = frames[f"v{layer}"]
    numbers = getattr(frame, part).copy()
    numbers[channel] += 1e-6 * (1 + abs(numbers[channel]))
    wrong = {**frames, f"v{layer}": (replace(frame, **{part: numbers}),)}
    assert not are_identities(graph.nodes, graph, wrong, 1e-9)


@pytest.mark.parametrize("kind", ["another axis", "several", "an affine"])
def test_what_needs_a_look_of_its_own_is_not_sure(kind: str) -> None:
    graph, frames = chain_of_norms(2, 3)
    nodes, (frame,) = graph.nodes, frames["v1"]
    if kind == "another axis":
        frames = {**frames, "v1": (replace(frame, axis=2),)}
    elif kind == "several":
        frames = {**frames, "v1": (frame, Affine(2, np.ones(3), np.zeros(3)))}
    else:
        nodes = (replace(nodes[0], op=ops.Affine(1), inputs=nodes[0].inputs[:3]), nodes[1])
    assert not are_identities(nodes, graph, frames, 1e-9)


@pytest.mark.parametrize("wrong", [None, 0, 4, 8])
def test_the_first_wrong_bias_is_named(wrong: int | None) -> None:
    rng, plain = np.random.default_rng(1), PlainBiases()
    for k in range(9):
        scale, shift = rng.uniform(0.5, 2, WIDE), rng.normal(size=WIDE)
        before = rng.normal(size=WIDE if k % 2 else 1)
        now = (before - shift) / scale
        if wrong is not None and k >= wrong:
            now[-1] += 1e-6
        assert plain.add(f"conv{k}", before, now, seen((Affine(1, scale, shift),), 1, WIDE))
    assert plain.wrong(1e-9) == ("" if wrong is None else f"conv{wrong}")


def test_a_bias_of_another_form_is_not_taken() -> None:
    plain, frame = PlainBiases(), Affine(1, np.full(3, 2.0), np.ones(3))
    y = seen((frame, Affine(2, np.ones(4), np.ones(4))), 1, 3, {2: 2})
    assert not plain.add("conv", np.zeros(3), np.zeros(3), y)
    assert not plain.add("conv", np.zeros((3, 4)), np.zeros((3, 4)), seen((frame,), 1, 3))
    assert plain.wrong(1e-9) == ""


def test_affines_that_are_computed_together_are_what_each_is() -> None:
    graph, _ = chain_of_norms()
    for found, node in zip(candidates(graph), graph.nodes, strict=True):
        assert found.function is not None
        wanted = line(node, graph)
        np.testing.assert_allclose(found.function.scale, wanted.slope, rtol=1e-14)
        np.testing.assert_allclose(found.function.shift, wanted.shift, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("operand", "number", "why"),
    [
        (1, np.nan, Why.NOT_FINITE),
        (2, np.inf, Why.NOT_FINITE),
        (3, -np.inf, Why.NOT_FINITE),
        (4, np.nan, Why.NOT_FINITE),
        (4, -1.0, Why.VARIANCE),
        (1, 1e-310, Why.UNDERFLOW),
    ],
)
def test_one_unsound_number_concerns_its_layer_alone(operand: int, number: float, why: Why) -> None:
    graph, _ = chain_of_norms(6, 5)
    name = graph.nodes[2].inputs[operand]
    numbers = graph.constants[name].load().copy()
    numbers[3] = number
    constants = {**graph.constants, name: replace(graph.constants[name], load=lambda: numbers)}
    found = candidates(replace(graph, constants=constants))
    assert [one.refusal.why if one.refusal else None for one in found] == [None, None, why, None, None, None]
