import math

import numpy as np
import pytest

from bnfold.affine import Affine
from bnfold.ops import Abs, Cast, ChannelClip, Clip, Identity, LeakyRelu, PRelu, Relu
from bnfold.plan import ReplaceByClip, SetBounds
from bnfold.rules import rewritten
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT, SIGN
from tests.rules.law import Case, law_tests

X = (2, 3, 4)
SLOPES = np.array([[0.5], [-2], [0.1]])
LOW, HIGH = np.array([-math.inf, -1, 0]), np.array([2.0, 1, math.inf])
TENSORS = {"relaxed": True, "tensors": True}
HOLDS = [
    pytest.param(Case(Relu(), (X,)), 1, "scale", id="relu"),
    pytest.param(Case(Relu(), (X,)), 2, "scale", id="relu, last axis"),
    pytest.param(Case(Relu(), (X,), **TENSORS), 1, "scale sign shift", id="relu as a clip by channel"),
    pytest.param(Case(Relu(), (X,), **TENSORS), 0, "scale sign shift", id="relu as a clip, first axis"),
    pytest.param(Case(LeakyRelu(0.1), (X,)), 1, "scale", id="leaky relu"),
    pytest.param(Case(LeakyRelu(-0.5), (X,)), 1, "scale", id="leaky relu, negative slope"),
    pytest.param(Case(PRelu(), (X, SLOPES)), 1, "scale", id="prelu, slopes by channel"),
    pytest.param(Case(PRelu(), (X, np.array(0.3))), 2, "scale", id="prelu, one slope, last axis"),
    pytest.param(Case(PRelu(), (X, (3, 1))), 1, "x0.scale y0.scale", id="prelu, computed slopes"),
    pytest.param(Case(Abs(), (X,)), 1, "scale", id="abs"),
    pytest.param(Case(Clip(0, None), (X,)), 1, "scale", id="a clip that is a relu"),
    pytest.param(Case(Clip(None, 0), (X,)), 1, "scale", id="a clip from above, at 0"),
    pytest.param(Case(Clip(None, None), (X,)), 1, "scale sign shift", id="a clip without bounds"),
    pytest.param(
        Case(Clip(0, 6), (X,), relaxed=True), 1, "one scale one sign one shift", id="relu6, one frame for all"
    ),
    pytest.param(Case(Clip(-1, None), (X,), relaxed=True), 1, "one scale one sign one shift", id="one bound"),
    pytest.param(Case(Clip(0, 6), (X,), **TENSORS), 1, "scale sign shift", id="relu6 as a clip by channel"),
    pytest.param(Case(Clip(-1, 1), (X,), **TENSORS), 2, "scale sign shift", id="hardtanh as a clip, last axis"),
    pytest.param(Case(ChannelClip(1), (X, LOW, HIGH)), 1, "scale sign shift", id="clip by channel"),
    pytest.param(Case(Identity(), (X,)), 1, "scale sign shift", id="identity"),
    *(
        pytest.param(
            Case(Cast(), (X,), dtypes={"x0": old, "y0": new}), 1, "scale sign shift", id=f"cast {old} to {new}"
        )
        for old, new in [("float16", "float32"), ("bfloat16", "float64"), ("float32", "float64"), ("float16",) * 2]
    ),
]
STOPS = [
    pytest.param(Case(Relu(), (X,)), 1, SHIFT, Why.KINK, id="relu, shift"),
    pytest.param(Case(Relu(), (X,)), 1, SIGN, Why.ORDER, id="relu, negative scale"),
    pytest.param(Case(Relu(), (X,), relaxed=True), 1, SHIFT, Why.KINK, id="relu where the target takes no tensors"),
    pytest.param(Case(LeakyRelu(0.1), (X,)), 1, SHIFT, Why.KINK, id="leaky relu, shift"),
    pytest.param(Case(LeakyRelu(0.1), (X,)), 1, SIGN, Why.ORDER, id="leaky relu, negative scale"),
    pytest.param(Case(PRelu(), (X, SLOPES)), 1, SHIFT, Why.KINK, id="prelu, shift"),
    pytest.param(Case(PRelu(), (X, SLOPES)), 1, SIGN, Why.ORDER, id="prelu, negative scale"),
    pytest.param(Case(Abs(), (X,)), 1, SHIFT, Why.KINK, id="abs, shift"),
    pytest.param(Case(Abs(), (X,)), 1, SIGN, Why.ORDER, id="abs, negative scale"),
    pytest.param(Case(Clip(0, None), (X,)), 1, SHIFT, Why.KINK, id="a clip that is a relu, shift"),
    pytest.param(Case(Clip(0, 6), (X,)), 1, SCALE, Why.BOUNDS, id="relu6, scale"),
    pytest.param(Case(Clip(0, 6), (X,)), 1, SHIFT, Why.BOUNDS, id="relu6, shift"),
    *(
        pytest.param(Case(Clip(1, -1), (X,), relaxed=True, tensors=tensors), 1, sort, Why.BOUNDS, id="clip, lo > hi")
        for tensors in (False, True)
        for sort in (SCALE, SIGN, SHIFT)
    ),
    pytest.param(Case(ChannelClip(1), (X, HIGH, LOW)), 1, SHIFT, Why.BOUNDS, id="clip by channel, lo > hi"),
    pytest.param(Case(Clip(0, 6), (X,), relaxed=True), 1, SCALE, Why.BOUNDS, id="relu6, scales that differ"),
    pytest.param(Case(ChannelClip(1), (X, LOW, HIGH)), 2, SCALE, Why.BOUNDS, id="clip by channel, last axis"),
    pytest.param(Case(ChannelClip(1), (X, LOW, (3,))), 1, SCALE, Why.COMPUTED, id="clip at computed bounds"),
    *(
        pytest.param(Case(Cast(), (X,), dtypes={"x0": old, "y0": new}), 1, SCALE, why, id=f"cast {old} to {new}")
        for old, new, why in [
            ("float32", "float16", Why.NARROWS),
            ("float16", "bfloat16", Why.NARROWS),
            ("bfloat16", "float16", Why.NARROWS),
            ("float64", "float32", Why.NARROWS),
            ("float32", "int8", Why.NO_RULE),
            ("int64", "float32", Why.NO_RULE),
        ]
    ),
]


test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)


def edits(op, scale, shift):
    site = Case(op, (X,), **TENSORS).site
    frame = Affine(1, np.array(scale, float), np.array(shift, float))
    return rewritten(op, site, {"x0": frame, "y0": frame})


def test_a_relu_stays_plain_where_it_can():
    assert edits(Relu(), [1, 2, 0.5], [0, 0, 0]) == ()


def test_a_negative_scale_turns_the_bound_of_a_relu():
    (edit,) = edits(Relu(), [2, -4, 1], [1, 2, 0])
    assert isinstance(edit, ReplaceByClip)
    np.testing.assert_array_equal(edit.lo, [-0.5, -math.inf, 0])
    np.testing.assert_array_equal(edit.hi, [math.inf, 0.5, math.inf])


def test_bounds_that_come_out_as_two_numbers_stay_numbers():
    assert edits(Clip(0, 6), [-2, -2, -2], [2, 2, 2]) == (SetBounds("node", -2.0, 1.0),)
    assert edits(Clip(0, None), [-2, -2, -2], [2, 2, 2]) == (SetBounds("node", None, 1.0),)
