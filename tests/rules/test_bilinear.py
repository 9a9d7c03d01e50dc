import numpy as np
import pytest

from bnfold.ops import Bilinear
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT, SIGN
from tests.rules.law import Case, law_tests

rng = np.random.default_rng(0)
ALL = "x0.scale x0.sign x3.scale x3.sign y0.scale y0.sign y0.shift"
TWICE = "x0.scale x0.sign y0.scale y0.sign y0.shift"


def const(*shape):
    return rng.normal(size=shape)


HOLDS = [
    pytest.param(Case(Bilinear(), ((2, 3), const(5, 3, 4), const(5), (2, 4))), 1, ALL, id="bilinear"),
    pytest.param(Case(Bilinear(), ((2, 3), const(5, 3, 4), None, (2, 4))), 1, ALL, id="bilinear without a bias"),
    pytest.param(Case(Bilinear(), ((2, 6, 3), const(5, 3, 4), const(5), (2, 6, 4))), 2, ALL, id="on three axes"),
    pytest.param(Case(Bilinear(), ((2, 3), const(5, 3, 3), const(5), "x0")), 1, TWICE, id="a tensor with itself"),
]
PLAIN = Case(Bilinear(), ((2, 3), const(5, 3, 4), const(5), (2, 4)))
SQUARE = Case(Bilinear(), ((3, 3, 3), const(3, 3, 3), const(3), (3, 3, 3)))
STOPS = [
    pytest.param(PLAIN, 1, SHIFT, Why.GATE, id="a shift"),
    pytest.param(SQUARE, 0, SCALE, Why.AXIS, id="another axis, scale"),
    pytest.param(SQUARE, 1, SIGN, Why.AXIS, id="another axis, sign"),
    pytest.param(SQUARE, 1, SHIFT, Why.AXIS, id="another axis, shift"),
    pytest.param(Case(Bilinear(), ((2, 3), (5, 3, 4), None, (2, 4))), 1, SCALE, Why.COMPUTED, id="a computed weight"),
    pytest.param(
        Case(Bilinear(), ((2, 3), const(5, 3, 4), (5,), (2, 4))), 1, SCALE, Why.COMPUTED, id="a computed bias"
    ),
    pytest.param(
        Case(Bilinear(), ((2, 3), const(5, 3, 4), None, const(2, 4))), 1, SCALE, Why.COMPUTED, id="a constant input"
    ),
]
test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)
