"""The derived audit: sees one wrong weight under any scales of rows and columns, and takes no right fold for wrong."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from bnfold.checking import check
from bnfold.checking.audit import ALLOWED, LinearLayer, audit_layers, disproportion, pair_layers
from bnfold.checking.measures import ulp
from tests.checking.building import Network, Norm, conv, linear, networks, weights_of, with_weight

GENERATOR = np.random.default_rng(3)
SHAPES = [
    pytest.param((6, 4, 3, 3), 1, id="conv"),
    pytest.param((6, 2, 3, 3), 2, id="groups"),
    pytest.param((6, 1, 3, 3), 6, id="depthwise"),
    pytest.param((10, 7), 1, id="linear"),
    pytest.param((4, 3, 5), 1, id="1-D"),
]


def scaled(weight, groups):
    """The weight of a fold: rounded once, after scales of rows and of columns (each group has its own)."""
    rows = GENERATOR.uniform(0.2, 5, (len(weight), *[1] * (weight.ndim - 1))) * np.where(
        GENERATOR.random() < 0.5, -1, 1
    )
    columns = GENERATOR.uniform(0.2, 5, (groups, weight.shape[1]))
    per_row = np.repeat(columns, len(weight) // groups, axis=0).reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    return (weight * rows * per_row).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_any_scales_are_in_proportion(shape, groups):
    weight = GENERATOR.normal(size=shape).astype(np.float32).astype(np.float64)
    weight[1] = 0  # a row of zeros, as of gamma == 0
    theirs = scaled(weight, groups)
    assert (disproportion(weight, theirs, groups) / ulp(theirs, "float32")).max() < ALLOWED


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_one_weight_is_named(shape, groups):
    weight = GENERATOR.normal(size=shape).astype(np.float32).astype(np.float64)
    theirs = scaled(weight, groups)
    place = (2, *[0] * (len(shape) - 1))
    theirs[place] *= 1 + 2.0**-12
    steps = disproportion(weight, theirs, groups) / ulp(theirs, "float32")
    assert np.unravel_index(steps.argmax(), steps.shape) == place
    assert steps[place] > 1000
    assert np.sort(steps.ravel())[-2] < ALLOWED


def test_layers_are_paired_by_shape_in_order():
    def layer(name, *shape):
        return LinearLayer(name, name, np.ones(shape), 1, "float32")

    ours = [layer("a", 3, 3), layer("b", 4, 3), layer("c", 5, 4)]
    theirs = [layer("A", 3, 3), layer("new", 9, 9), layer("C", 5, 4)]
    assert [(a.name, b.name) for a, b in pair_layers(ours, theirs)] == [("a", "A"), ("c", "C")]


def test_another_layer_altogether_gives_no_row():
    one, other = (LinearLayer("x", "x", GENERATOR.normal(size=(5, 4, 3, 3)), 1, "float32") for _ in range(2))
    assert list(audit_layers([one], [other])) == []


def test_a_weight_too_small_for_the_outputs_is_found():
    network = next(network for network in networks() if network.name == "plain")
    good = network.model(fold=True)
    weight = weights_of(good)["c2.weight"].copy()
    weight[3, 1, 0, 2] *= 1 + 2.0**-19  # 16 to 32 ULP
    bad = with_weight(good, "c2.weight", weight)
    passed, failed = (check(network.model(), model, localise=False) for model in (good, bad))
    assert passed.passed
    assert passed.audit_source == "derived"
    assert all(run.verdict == "verified" for run in failed.runs)
    assert failed.exit_status == 1
    (row,) = [row for row in failed.audit if not row.passed]
    assert (row.layer, row.channel) == ("c2/linear", 3)
    assert "c2/linear, weight of channel 3" in failed.reasons[0]


def test_a_merged_branch_is_not_flagged():
    """A small 1x1 branch merged into a 3x3 convolution changes its middle weights alone, and rightly so."""
    g = np.random.default_rng(0)
    main, side = conv("main", g, 4, 4, after=()), conv("side", g, 4, 4, 1, after=(), source="x")
    for layer in (main, side):
        layer.norm = None
    side.weight *= 1e-3
    reference = Network("n", (4, 6, 6), [main, side], ("side",)).model()
    reference.graph.node.append(helper.make_node("Add", ["main", "side"], ["y"]))
    reference.graph.output[0].name = "y"
    merged = main.weight.copy()
    merged[:, :, 1, 1] += side.weight[:, :, 0, 0]
    main.weight, main.bias, main.name = merged, main.bias + side.bias, "y"
    candidate = Network("n", (4, 6, 6), [main], ("y",)).model()
    result = check(reference, candidate, localise=False)
    assert result.passed, result.reasons


def test_fresh_statistics_in_another_frame_are_not_flagged():
    """gamma 1, var 1, eps 1e-5: a BN folded forwards leaves the layer before as it is, 5e-6 from the usual fold."""
    g = np.random.default_rng(0)
    first, second = linear("a", g, 6, 8), linear("b", g, 8, 3)
    fresh = Norm(np.ones(8), np.zeros(8), np.zeros(8), np.ones(8))
    reference = Network("n", (6,), [replace(first, norm=fresh), second], ("b",)).model()
    forwards = replace(second, weight=second.weight * fresh.affine[0])
    assert check(reference, Network("n", (6,), [first, forwards], ("b",)).model(), localise=False).passed
