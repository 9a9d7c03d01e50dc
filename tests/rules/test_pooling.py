import pytest

from bnfold.ops import AvgPool, MaxPool, Reduce, Resize
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT, SIGN
from tests.rules.law import Case, law_tests

X, HALF = (2, 3, 6, 5), (2, 3, 3, 2)
ANY = "scale sign shift"
HOLDS = [
    pytest.param(Case(MaxPool(), (X,), (HALF,)), 1, "scale shift", id="max pool"),
    pytest.param(Case(MaxPool(), (X,), (HALF,)), 0, "scale shift", id="max pool, batch axis"),
    pytest.param(Case(MaxPool(), ((2, 3, 7),), ((2, 3, 3), (2, 3, 3))), 1, "scale shift", id="max pool with indices"),
    pytest.param(Case(MaxPool(), ((1, 3, 4, 3, 2),), ((1, 3, 2, 2, 1),)), 1, "scale shift", id="max pool 3-D"),
    pytest.param(Case(AvgPool(False), (X,), (HALF,)), 1, ANY, id="average pool"),
    pytest.param(Case(AvgPool(False), (X,), ((2, 3, 1, 1),)), 1, ANY, id="global average pool"),
    pytest.param(Case(AvgPool(False), ((2, 3, 7),), ((2, 3, 2),)), 0, ANY, id="average pool, batch axis"),
    pytest.param(Case(AvgPool(True), (X,), (HALF,)), 1, "scale sign", id="average pool that counts padding"),
    pytest.param(Case(Reduce("mean", (2, 3), True), (X,)), 1, ANY, id="mean"),
    pytest.param(Case(Reduce("mean", (2, 3), False), (X,)), 1, ANY, id="mean, axes dropped"),
    pytest.param(Case(Reduce("mean", (0, 2), False), (X,)), 1, ANY, id="mean, an axis before dropped"),
    pytest.param(Case(Reduce("mean", (0, 2), False), (X,)), 3, ANY, id="mean, the axis moves by two"),
    pytest.param(Case(Reduce("sum", (2, 3), True), (X,)), 1, ANY, id="sum"),
    pytest.param(Case(Reduce("sum", (1,), False), (X,)), 3, ANY, id="sum, an axis dropped"),
    pytest.param(Case(Reduce("max", (2, 3), False), (X,)), 1, "scale shift", id="maximum"),
    pytest.param(Case(Reduce("min", (1,), True), (X,)), 2, "scale shift", id="minimum"),
    pytest.param(Case(Resize(True), (X,), ((2, 3, 9, 10),)), 1, ANY, id="resize"),
    pytest.param(Case(Resize(True), (X,), ((2, 3, 6, 3),)), 2, ANY, id="resize of one axis, frames on another"),
]
STOPS = [
    pytest.param(Case(MaxPool(), (X,), (HALF,)), 1, SIGN, Why.ORDER, id="max pool, negative scale"),
    pytest.param(Case(MaxPool(), (X,), (HALF,)), 2, SCALE, Why.AXIS, id="max pool, rows"),
    pytest.param(Case(AvgPool(True), (X,), (HALF,)), 1, SHIFT, Why.SPREAD, id="average that counts padding, shift"),
    pytest.param(Case(AvgPool(False), (X,), (HALF,)), 3, SCALE, Why.AXIS, id="average pool, columns"),
    pytest.param(Case(Reduce("mean", (1,), True), (X,)), 1, SCALE, Why.AXIS, id="mean over the channels"),
    pytest.param(Case(Reduce("sum", (1,), False), (X,)), 1, SHIFT, Why.AXIS, id="sum over the channels"),
    pytest.param(
        Case(Reduce("sum", (2,), False), ((2, 3, "length"),), ((2, 3),)),
        1,
        SHIFT,
        Why.LENGTH,
        id="sum, unknown length",
    ),
    pytest.param(Case(Reduce("max", (2, 3), True), (X,)), 1, SIGN, Why.ORDER, id="maximum, negative scale"),
    pytest.param(Case(Reduce("min", (2, 3), True), (X,)), 1, SIGN, Why.ORDER, id="minimum, negative scale"),
    pytest.param(Case(Resize(False), (X,), ((2, 3, 9, 9),)), 1, SHIFT, Why.NO_RULE, id="resize that extrapolates"),
    pytest.param(Case(Resize(True, (2,)), (X,), (X,)), 2, SCALE, Why.AXIS, id="resize to the same length"),
    pytest.param(Case(Resize(True), (X,), ((2, 3, 9, 5),)), 2, SCALE, Why.AXIS, id="resize, rows"),
    pytest.param(
        Case(Resize(True), ((None, 3, 4, 4),), ((None, 3, 8, 8),)), 2, SCALE, Why.AXIS, id="resize, a size unknown"
    ),
    pytest.param(Case(Resize(True), (X,), ((2, 4, 9, 5),)), 1, SCALE, Why.AXIS, id="resize of the channels"),
]


test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)
