import numpy as np
import pytest

from bnfold.ops import Concat, Extremum, Product, Stack, Sum
from bnfold.relation import Summed
from bnfold.rules import relation
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT, SIGN
from tests.rules.law import Case, law_tests

X = (2, 3, 4)
EACH = " ".join(f"{name}.{aspect}" for name in ("x0", "x1", "y0") for aspect in ("scale", "sign", "shift"))
POSITIVE = "scale shift"
HOLDS = [
    pytest.param(Case(Concat(1), (X, (2, 2, 4))), 1, EACH, id="concat of channels"),
    pytest.param(Case(Concat(1), (X, "x0", (2, 1, 4))), 1, "scale sign shift", id="a tensor twice"),
    pytest.param(Case(Concat(2), (X, (2, 3, 1))), 1, EACH, id="concat of rows"),
    pytest.param(Case(Extremum("max"), (X, X)), 1, POSITIVE, id="maximum"),
    pytest.param(Case(Extremum("min"), (X, X)), 2, POSITIVE, id="minimum, frames on rows"),
    pytest.param(Case(Extremum("max"), (X, "x0", X)), 1, POSITIVE, id="maximum of three, one of them twice"),
    pytest.param(Case(Extremum("min"), (X, (2, 3, 1)), (X,)), 1, POSITIVE, id="minimum with a row for all"),
    pytest.param(Case(Stack(2), (X, X)), 1, EACH, id="stack behind the channels"),
    pytest.param(Case(Stack(0), (X, X)), 2, EACH, id="stack in front of the rows"),
    pytest.param(Case(Sum((1.0, 1.0)), (X, X)), 1, EACH, id="sum"),
    pytest.param(Case(Sum((1.0, -1.0)), (X, X)), 2, EACH, id="difference, last axis"),
    pytest.param(Case(Sum((1.0, 2.5)), (X, X)), 1, EACH, id="torch's alpha"),
    pytest.param(Case(Sum((1.0, 1.0)), (X, "x0")), 1, "scale sign shift", id="x + x"),
    pytest.param(Case(Sum((1.0, 0.5, -2.0)), (X, X, "x0")), 1, EACH, id="three terms, two of them one tensor"),
    pytest.param(Case(Product(), (X, X)), 1, "x0.scale x0.sign x1.scale x1.sign y0.scale y0.sign", id="product"),
    pytest.param(Case(Product(), (X, "x0")), 1, "x0.scale x0.sign y0.scale", id="square"),
    pytest.param(Case(Product(), (X, X, "x0")), 0, "x0.scale x0.sign x1.scale x1.sign y0.scale y0.sign", id="u v u"),
]
STOPS = [
    pytest.param(Case(Product(), (X, X)), 1, SHIFT, Why.GATE, id="product, shift"),
    pytest.param(Case(Concat(1), (X, np.ones((2, 1, 4)))), 1, SCALE, Why.NO_RULE, id="concat with a constant"),
    pytest.param(Case(Extremum("max"), (X, X)), 1, SIGN, Why.ORDER, id="maximum, sign"),
    pytest.param(Case(Extremum("max"), (X, (1, 4)), (X,)), 1, SCALE, Why.BROADCAST, id="maximum, one for all"),
    pytest.param(Case(Extremum("max"), (X, np.ones(X))), 1, SCALE, Why.NO_RULE, id="maximum with a constant"),
    pytest.param(Case(Stack(1), (X, np.ones(X))), 1, SCALE, Why.NO_RULE, id="stack with a constant"),
    pytest.param(Case(Sum((1.0, 1.0)), (X, np.ones(X))), 1, SCALE, Why.NO_RULE, id="sum with a constant"),
    pytest.param(Case(Product(), (X, np.ones(X))), 1, SCALE, Why.NO_RULE, id="product with a constant"),
    pytest.param(Case(Concat(1), (X, X), (X,)), 1, SCALE, Why.MALFORMED, id="concat of more channels than there are"),
]


test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)


def test_behind_an_operand_of_unknown_length_no_channel_has_a_place():
    site = Case(Concat(1), ((2, "n", 4), (2, 3, 4)), ((2, None, 4),)).site
    first, second = relation(site)
    assert first.view.image(1, 5) is not None
    assert second.view.image(1, 3) is None
    assert second.view.image(2, 4) is not None


def test_a_tensor_that_is_added_twice_counts_twice():
    assert relation(Case(Sum((1.0, 0.5)), (X, "x0")).site) == (Summed((("x0", 1.5),), "y0"),)
