import math

import pytest

from bnfold.ops import Pad
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT, SIGN
from tests.rules.law import Case, law_tests

X = (2, 3, 5, 4)
SPATIAL = ((0, 0), (0, 0), (2, 1), (0, 3))
CHANNELS = ((0, 0), (1, 0), (0, 0), (0, 0))
CROP = ((0, 0), (0, 0), (-1, 0), (0, -2))
ANY = "scale sign shift"
ONE = "one scale one sign one shift"
HOLDS = [
    *(
        pytest.param(Case(Pad(SPATIAL, mode), (X,)), axis, ANY, id=f"{mode}, axis {axis}")
        for mode in ("reflect", "replicate", "circular")
        for axis in (0, 1)
    ),
    pytest.param(Case(Pad(SPATIAL), (X,)), 1, "scale sign", id="zeros"),
    pytest.param(Case(Pad(CHANNELS), (X,)), 2, "scale sign", id="channels of zeros, frames on rows"),
    pytest.param(Case(Pad(SPATIAL, value=-math.inf), (X,)), 1, "scale shift", id="-inf, before a max pool"),
    pytest.param(Case(Pad(SPATIAL, value=1.5), (X,), relaxed=True), 1, ONE, id="a number that may change"),
    pytest.param(Case(Pad(CROP, value=1.5), (X,)), 1, ANY, id="a crop"),
    pytest.param(Case(Pad(((0, 0), (0, 0), (-1, 1), (0, 0)), "replicate"), (X,)), 1, ANY, id="cropped and replicated"),
]
STOPS = [
    pytest.param(Case(Pad(SPATIAL), (X,)), 1, SHIFT, Why.FILL, id="zeros, shift"),
    pytest.param(Case(Pad(SPATIAL, value=-math.inf), (X,)), 1, SIGN, Why.FILL, id="-inf, negative scale"),
    pytest.param(Case(Pad(SPATIAL, value=1.5), (X,)), 1, SCALE, Why.FILL, id="a number"),
    pytest.param(Case(Pad(SPATIAL, value=1.5), (X,), relaxed=True), 1, SHIFT, Why.FILL, id="a number, shifts differ"),
    pytest.param(Case(Pad(CHANNELS), (X,)), 1, SCALE, Why.FILL, id="channels of zeros"),
    pytest.param(Case(Pad(SPATIAL, "reflect"), (X,)), 2, SCALE, Why.AXIS, id="reflected rows"),
]


test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)
