"""The picture of the curves."""

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.training.curves import nice_ticks, svg
from bnfold.training.history import Epoch

SVG = "{http://www.w3.org/2000/svg}"


def epochs(count):
    return [Epoch(n, 0.1, 2.0 / n, 1 - 0.9 / n, 2.2 / n, 1 - 0.95 / n, 1.0) for n in range(1, count + 1)]


def points(line):
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def test_curves_stand_where_their_values_are():
    root = ET.fromstring(svg(epochs(5), "lenet on <data> & more", "accuracy"))
    lines = [points(line) for line in root.iter(f"{SVG}polyline")]
    assert len(lines) == 4
    train_loss, test_loss, train_score, _ = lines
    assert [len(line) for line in lines] == [5] * 4
    assert all(b[1] > a[1] for a, b in itertools.pairwise(train_loss))
    assert all(b[1] < a[1] for a, b in itertools.pairwise(train_score))
    # The loss axis runs from 0 to 2.5 over 220 pixels from the top at 60.
    assert test_loss[0] == pytest.approx((60, 60 + 220 * (1 - 2.2 / 2.5)), abs=0.1)
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"lenet on <data> & more", "accuracy", "loss", "1", "3", "5", "training", "held out"} <= texts


def test_one_epoch_is_a_dot():
    root = ET.fromstring(svg(epochs(1), "lenet", "accuracy"))
    assert len(list(root.iter(f"{SVG}circle"))) == 4


@given(low=st.floats(-1e6, 1e6), span=st.one_of(st.just(0.0), st.floats(1e-3, 1e6)))
def test_ticks_enclose_the_values(low, span):
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(1, span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 9
    assert all(math.isclose(b - a, ticks[1] - ticks[0], rel_tol=1e-6) for a, b in itertools.pairwise(ticks))


@pytest.mark.parametrize(
    ("low", "high"), [(5e-324, 5e-324), (0, 0), (1e-14, 3e-14), (2.3, 2.3 + 1e-13), (-1e30, 1e30), (1e-320, 2e-310)]
)
def test_values_that_are_tiny_or_alike_have_ticks(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) == len(set(ticks)) <= 9
    assert ticks[0] <= low
    assert ticks[-1] >= high
