import numpy as np
import pytest

from bnfold.adapters.memory import written
from bnfold.affine import Affine
from bnfold.ops import Lookup, Parameter
from bnfold.plan import Plan
from bnfold.relation import Pinned
from bnfold.rules import relation, rewritten
from bnfold.why import Why
from tests.oracle import run_graph
from tests.rules.dense import SCALE
from tests.rules.law import Case, law_tests

ANY = "scale sign shift"
ROWS = np.array([[4, 0, 2], [2, 2, 1]])
HOLDS = [
    pytest.param(Case(Lookup(), ((5, 3), ROWS)), 1, ANY, id="an embedding"),
    pytest.param(Case(Lookup(), ((5, 3), ROWS[0])), 1, ANY, id="an embedding of a list"),
    pytest.param(Case(Lookup(), ((5, 3, 2), ROWS)), 2, ANY, id="rows of matrices, last axis"),
    pytest.param(Case(Lookup(), ((5, 3, 2), np.array(3))), 1, ANY, id="one row"),
]
STOPS = [
    pytest.param(Case(Lookup(), ((5, 3), ROWS)), 0, SCALE, Why.AXIS, id="the rows themselves"),
    pytest.param(Case(Lookup(), (np.ones((5, 3)), (2, 3)), ((2, 3, 3),)), 1, SCALE, Why.NO_RULE, id="a held table"),
]

test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_parameter_takes_any_frame(axis: int) -> None:
    rng = np.random.default_rng(axis)
    constant = rng.normal(size=(3, 4, 2))
    channels = constant.shape[axis]
    site = Case(Parameter(), (constant,)).site
    assert relation(site) == ()
    frame = Affine(axis, rng.normal(size=channels), rng.normal(size=channels))
    edits = rewritten(site.node.op, site, {"y0": frame})
    again = run_graph(written(site.graph, Plan((), edits)), {})["y0"]
    np.testing.assert_allclose(frame(again), constant, rtol=1e-12, atol=1e-12)


def test_a_parameter_that_stays_holds_its_frame() -> None:
    site = Case(Parameter(), (np.ones((3, 4)),)).site
    site.node.limits["constants"] = Why.SHARED
    assert relation(site) == (Pinned(("y0",), Why.SHARED),)
    assert rewritten(site.node.op, site, {}) == ()
