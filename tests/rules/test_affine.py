import numpy as np
import pytest
from numpy.testing import assert_allclose

from bnfold.ops import Affine, BatchNorm
from bnfold.rules.affine import affine_of
from bnfold.why import Why
from tests.oracle import run_graph
from tests.rules.dense import SCALE, SHIFT
from tests.rules.law import Case, assert_law, assert_stops, seeded

GAMMA, BETA = np.array([0.5, -2, 1.5]), np.array([1.0, 0, -3])
MEAN, VARIANCE = np.array([-1.0, 4, 0.25]), np.array([2.0, 0, 9])
FREE = "x0.scale x0.sign x0.shift y0.scale y0.sign y0.shift"
HOLDS = [
    pytest.param(Case(BatchNorm(1e-5), ((2, 3, 4), GAMMA, BETA, MEAN, VARIANCE)), 1, FREE, id="batch norm"),
    pytest.param(Case(BatchNorm(1e-3), ((2, 3), GAMMA, BETA, MEAN, VARIANCE)), 1, FREE, id="batch norm on rows"),
    pytest.param(Case(BatchNorm(1e-3), ((2, 3, 2, 4, 1), GAMMA, BETA, MEAN, VARIANCE)), 1, FREE, id="batch norm 3-D"),
    pytest.param(Case(BatchNorm(1e-5), ((2, 3, 4), None, None, MEAN, VARIANCE)), 1, FREE, id="not affine"),
    pytest.param(Case(BatchNorm(1e-5), ((2, 3, 4), None, BETA, MEAN, VARIANCE)), 1, FREE, id="no gamma"),
    pytest.param(Case(BatchNorm(1e-5), ((2, 3, 4), GAMMA, None, MEAN, VARIANCE)), 1, FREE, id="no beta"),
    pytest.param(Case(BatchNorm(0.1), ((2, 3, 4), 0 * GAMMA, BETA, MEAN, VARIANCE)), 1, FREE, id="gamma 0"),
    pytest.param(Case(Affine(1), ((2, 3, 4), GAMMA, BETA)), 1, FREE, id="affine"),
    pytest.param(Case(Affine(2), ((2, 4, 3), GAMMA, BETA)), 2, FREE, id="affine on the last axis"),
    pytest.param(Case(Affine(0), ((3, 2), GAMMA, 0 * BETA)), 0, FREE, id="a scale on the first axis"),
]
STOPS = [
    pytest.param(
        Case(BatchNorm(1e-5), ((2, 3, 4), (3,), BETA, MEAN, VARIANCE)), 1, SCALE, Why.COMPUTED, id="computed gamma"
    ),
    pytest.param(
        Case(BatchNorm(1e-5), ((2, 3, 4), GAMMA, BETA, (3,), (3,))), 1, SHIFT, Why.COMPUTED, id="computed statistics"
    ),
    pytest.param(Case(Affine(1), ((2, 3), GAMMA, (3,))), 1, SHIFT, Why.COMPUTED, id="computed shift"),
]


@pytest.mark.parametrize(("case", "axis", "free"), HOLDS)
@seeded
def test_a_kept_one_takes_any_frames(case, axis, free, seed):
    assert_law(case, axis, free, seed)


@pytest.mark.parametrize(("case", "axis", "aspect", "why"), STOPS)
def test_stops(case, axis, aspect, why):
    assert_stops(case, axis, aspect, why)


@pytest.mark.parametrize(("case", "axis", "free"), HOLDS)
def test_as_an_affine_it_computes_what_the_operator_does(case, axis, free):
    site = case.site
    x = np.random.default_rng(0).normal(size=site.shape("x0"))
    assert_allclose(affine_of(site)(x), run_graph(site.graph, {"x0": x})["y0"], rtol=1e-12, atol=1e-12)


def test_a_folded_one_vanishes_into_the_frames():
    """The frames that fold it, scale_y = s scale_x and shift_y = s shift_x + t, leave x' as it is."""
    site = HOLDS[0].values[0].site
    frame = np.array([2.0, -0.5, 3]), np.array([1.0, 2, -1])
    before = affine_of(site).__class__(1, *frame)
    after = affine_of(site).after(before)
    x = np.random.default_rng(0).normal(size=site.shape("x0"))
    assert_allclose(after(x), run_graph(site.graph, {"x0": before(x)})["y0"], rtol=1e-12)
