"""The audit that needs no plan: it sees one wrong weight whatever tool folded, and takes no right fold for wrong."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold.checking import check
from bnfold.checking.audit import ALLOWED, fit
from bnfold.checking.linear_forms import Dense, Window
from tests.checking.building import Network, Norm, conv, linear, networks, weights_of, with_weight
from tests.checking.faults import FAULTS

GENERATOR = np.random.default_rng(3)
SHAPES = [
    pytest.param((6, 4, 3, 3), 1, id="conv"),
    pytest.param((6, 2, 3, 3), 2, id="groups"),
    pytest.param((6, 1, 3, 3), 6, id="depthwise"),
    pytest.param((10, 7), 1, id="linear"),
    pytest.param((4, 3, 5), 1, id="1-D"),
]
# What a fault changes that no layer's weights show: the graph's other operators, the interface.
NOT_WEIGHTS = {
    "activation lost", "ReLU for the activation behind it", "ReLU added", "border padded with the edge",
    "shift folded into a padded conv", "BN kept in training mode", "wrong dtype", "one more axis", "output renamed",
    "output missing", "outputs permuted", "channels of the output permuted",
}  # fmt: skip


def form(weight, bias, groups):
    window = Window.trivial(weight.ndim - 2)
    return Dense(weight, np.abs(weight), bias, np.abs(bias), groups, window)


def rounded(values):
    return values.astype(np.float32).astype(np.float64)


def in_a_frame(dense):
    """What a fold makes of a layer whose result it holds as y = scale * y' + shift, rounded once."""
    out = len(dense.bias)
    scale = GENERATOR.uniform(0.2, 5, out) * np.where(GENERATOR.random(out) < 0.5, -1, 1)
    shift = GENERATOR.normal(size=out)
    rows = scale.reshape(-1, *[1] * (dense.weight.ndim - 1))
    moved = replace(dense, weight=rounded(dense.weight / rows), bias=rounded((dense.bias - shift) / scale))
    return moved, scale, shift


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_any_frame_is_read_off_the_weights(shape, groups):
    ours = form(rounded(GENERATOR.normal(size=shape)), GENERATOR.normal(size=shape[0]), groups)
    theirs, scale, shift = in_a_frame(ours)
    found = fit(theirs, ours, "float32", free=True)
    assert found.right
    np.testing.assert_allclose(found.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(found.shift, shift, rtol=1e-5)
    assert not fit(theirs, ours, "float32", free=False).right


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_one_weight_is_named(shape, groups, free):
    ours = form(rounded(GENERATOR.normal(size=shape)), GENERATOR.normal(size=shape[0]), groups)
    theirs = in_a_frame(ours)[0] if free else replace(ours, weight=ours.weight.copy())
    place = (2, *[0] * (len(shape) - 1))
    theirs.weight[place] *= 1 + 2.0**-12
    found = fit(theirs, ours, "float32", free=free)
    assert found.wrong == [2]
    assert np.unravel_index(found.errors.argmax(), shape) == place
    assert found.errors[place] > 1000
    assert np.sort(found.errors.ravel())[-2] < ALLOWED


def test_another_shape_is_not_compared():
    one, other = (form(np.ones(shape), np.ones(3), 1) for shape in ((3, 2, 3, 3), (3, 2, 1, 1)))
    assert fit(one, other, "float32", free=False) is None


@pytest.mark.parametrize("network", list(networks()), ids=lambda network: network.name)
def test_every_fault_of_a_weight_is_found(network):
    """And in a right fold every layer of both sides is compared."""
    right = check(network.model(), network.model(fold=True), localise=False)
    assert right.passed, right.reasons
    assert right.audit_source == "derived"
    assert not right.audit_gaps
    assert {row.layer for row in right.audit} == {f"{layer.name}/linear" for layer in network.layers}
    for kind, plant in FAULTS.items():
        candidate = plant(network, np.random.default_rng(list(FAULTS).index(kind)))
        if kind in NOT_WEIGHTS or candidate is None:
            continue
        result = check(network.model(), candidate, localise=False)
        hidden = [gap for gap in result.audit_gaps if "no output shows" in gap.why]  # by a ReLU that is always shut
        assert any(not row.passed for row in result.audit) or (hidden and network.name == "mlp"), kind


@pytest.mark.parametrize("kind", ["activation lost", "ReLU added", "BN kept in training mode"])
def test_what_can_not_be_compared_is_said(kind):
    network = next(network for network in networks() if network.name == "plain")
    candidate = FAULTS[kind](network, np.random.default_rng(0))
    result = check(network.model(), candidate, localise=False)
    assert result.audit_gaps
    assert any("could not compare" in warning for warning in result.warnings)


def wide():
    """Channels from 1e-6 to 1e4 of one another: what is wrong in a quiet one, no output shows."""
    g = np.random.default_rng(5)
    first, second = conv("first", g, 3, 11, after=("Relu",)), conv("second", g, 11, 4, after=())
    spread = 10.0 ** np.linspace(-6, 4, 11)
    first.norm.gamma, first.norm.beta = first.norm.gamma * spread, first.norm.beta * spread
    return Network("wide", (3, 9, 9), [first, second], ("second",))


@pytest.mark.parametrize("channel", range(11))
def test_a_weight_too_small_for_the_outputs_is_found_in_every_channel(channel):
    network = wide()
    good = network.model(fold=True)
    weight = weights_of(good)["first.weight"].copy()
    weight[channel, 1, 0, 2] *= 1 + 2.0**-12
    bad = with_weight(good, "first.weight", weight)
    passed, failed = (check(network.model(), model, localise=False) for model in (good, bad))
    assert passed.passed
    if channel < 8:
        assert all(run.verdict == "verified" for run in failed.runs)
    assert failed.exit_status == 1
    (row,) = [row for row in failed.audit if not row.passed]
    assert (row.layer, row.what, row.channel) == ("first/linear", "weight", channel)
    assert f"first/linear, weight of channel {channel}" in failed.reasons[0]


def test_a_dropped_bias_is_named():
    network = next(network for network in networks() if network.name == "residual")
    candidate = network.model(fold=True)
    del next(node for node in candidate.graph.node if node.name == "c2/linear").input[2]
    result = check(network.model(), candidate, localise=False)
    assert {(row.layer, row.what) for row in result.audit if not row.passed} == {("c2/linear", "bias")}
    assert not result.audit_gaps


def renamed(model):
    """Copy with every inner name changed and the initializers in another order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ends = {value.name for value in (*copy.graph.input, *copy.graph.output)}
    for tensor in copy.graph.initializer:
        tensor.name = f"p_{hash(tensor.name) % 10**9}"
    for i, node in enumerate(copy.graph.node):
        node.name = f"node_{i}"
        for part in (node.input, node.output):
            for k, name in enumerate(part):
                if name and name not in ends:
                    known = {x.name for x in model.graph.initializer}
                    part[k] = f"p_{hash(name) % 10**9}" if name in known else f"v_{hash(name) % 10**9}"
    tensors = sorted(copy.graph.initializer, key=lambda tensor: tensor.name)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(tensors)
    return copy


def optimised(model, tmp_path):
    """What ONNX Runtime writes at its extended level: FusedConv and the like."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(tmp_path / "optimised.onnx")


def tampered(model):
    """Copy with one number of the first convolution's weight off by 2^-12."""
    node = next(node for node in model.graph.node if node.op_type in ("Conv", "FusedConv"))
    weight = weights_of(model)[node.input[1]].copy()
    weight[(1, 0, *[0] * (weight.ndim - 2))] *= 1 + 2.0**-12
    return with_weight(model, node.input[1], weight)


@pytest.mark.parametrize("name", ["residual", "depthwise", "two outputs"])
def test_a_candidate_may_come_from_anywhere(name, tmp_path):
    network = next(network for network in networks() if network.name == name)
    for candidate in (renamed(network.model(fold=True)), optimised(network.model(), tmp_path)):
        right, wrong = (check(network.model(), model, localise=False) for model in (candidate, tampered(candidate)))
        assert right.passed, right.reasons
        assert not right.audit_gaps
        ((layer, channel),) = [(row.layer, row.channel) for row in wrong.audit if not row.passed]
        assert (layer, channel) == (f"{network.layers[0].name}/linear", 1)


def branches(*, merged):
    """A 3x3 and a 1x1 convolution on one x, and x itself, added up."""
    g = np.random.default_rng(0)
    main, side = conv("main", g, 4, 4, after=()), conv("side", g, 4, 4, 1, after=(), source="x")
    for layer in (main, side):
        layer.norm = None
    side.weight *= 1e-3
    if merged:
        main.weight[:, :, 1, 1] += side.weight[:, :, 0, 0] + np.eye(4)
        return Network("n", (4, 6, 6), [replace(main, name="y", bias=main.bias + side.bias)], ("y",)).model()
    model = Network("n", (4, 6, 6), [main, side], ("side",)).model()
    model.graph.node.append(helper.make_node("Add", ["main", "side"], ["both"]))
    model.graph.node.append(helper.make_node("Add", ["both", "x"], ["y"]))
    model.graph.output[0].name = "y"
    return model


def test_merged_branches_are_compared():
    for reference, candidate in ((False, True), (True, False)):
        result = check(branches(merged=reference), branches(merged=candidate), localise=False)
        assert result.passed, result.reasons
        assert not result.audit_gaps
    wrong = check(branches(merged=False), tampered(branches(merged=True)), localise=False)
    ((layer, channel),) = [(row.layer, row.channel) for row in wrong.audit if not row.passed]
    assert "main" in layer
    assert "side" in layer
    assert channel == 1


def test_fresh_statistics_in_another_frame_are_not_flagged():
    """gamma 1, var 1, eps 1e-5: a BN folded forwards leaves the layer before as it is, 5e-6 from the usual fold."""
    g = np.random.default_rng(0)
    first, second = linear("a", g, 6, 8), linear("b", g, 8, 3)
    fresh = Norm(np.ones(8), np.zeros(8), np.zeros(8), np.ones(8))
    reference = Network("n", (6,), [replace(first, norm=fresh), second], ("b",)).model()
    forwards = replace(second, weight=second.weight * fresh.affine[0])
    result = check(reference, Network("n", (6,), [first, forwards], ("b",)).model(), localise=False)
    assert result.passed, result.reasons
    assert not result.audit_gaps


@pytest.mark.parametrize("bad", [False, True])
def test_scales_that_the_next_layer_makes_up_for(bad):
    """As cross-layer equalisation leaves them: a ReLU passes any positive scale."""
    network = next(network for network in networks() if network.name == "plain")
    candidate = network.model(fold=True)
    weights = weights_of(candidate)
    scale = np.random.default_rng(1).uniform(0.1, 10, 8).astype(np.float32)
    changed = {
        "c1.weight": weights["c1.weight"] * scale.reshape(-1, 1, 1, 1),
        "c1.bias": weights["c1.bias"] * scale,
        "c2.weight": weights["c2.weight"] / scale.reshape(1, -1, 1, 1),
    }
    if bad:
        changed["c2.weight"][5, 3, 1, 1] *= 1 + 2.0**-12
    for tensor in candidate.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    result = check(network.model(), candidate, localise=False)
    wrong = [(row.layer, row.channel) for row in result.audit if not row.passed]
    assert wrong == ([("c2/linear", 5)] if bad else [])
    assert not result.audit_gaps


def test_rows_tell_which_of_several_candidates():
    network = next(network for network in networks() if network.name == "plain")
    good = network.model(fold=True)
    result = check(network.model(), [good, tampered(good)], localise=False)
    assert {row.candidate for row in result.audit if not row.passed} == {"plain#2"}
    assert result.reasons[0].startswith("audit of plain#2: 1 constant")
