"""Where channels go, held against what NumPy does to an array that is numbered by channel."""

import numpy as np
import pytest

from bnfold.views import Rearranged, Reshaped, View

SHUFFLE = (("reshape", ("N", 2, 3, "H")), ("transpose", (0, 2, 1, 3)), ("reshape", ("N", 6, "H")))

LANDS = [
    pytest.param(Reshaped((2, 3, 4, 5), (2, 60)), 1, 3, 1, np.repeat(range(3), 20), id="flatten"),
    pytest.param(Reshaped(("N", 3, 4, 5), ("N", 60)), 1, 3, 1, np.repeat(range(3), 20), id="flatten, symbolic batch"),
    pytest.param(Reshaped((None, 3, 4), ("M", 12)), 2, 4, 1, np.tile(range(4), 3), id="last axis, unknown batch"),
    pytest.param(Reshaped((2, 3, 4), (6, 4)), 2, 4, 1, range(4), id="tokens into the batch"),
    pytest.param(Reshaped((2, 3), (2, 3, 1, 1)), 1, 3, 1, range(3), id="unsqueeze"),
    pytest.param(Reshaped(("N", 3, 1, 1), ("N", 3)), 1, 3, 1, range(3), id="squeeze"),
    pytest.param(Rearranged(("N", 6, "H"), SHUFFLE), 1, 6, 1, [0, 3, 1, 4, 2, 5], id="channel shuffle"),
]
LOST = [
    pytest.param(Reshaped((2, 6, 4), (2, 2, 3, 4)), 1, 6, id="channels part into two axes"),
    pytest.param(Reshaped(("N", 3, "H"), ("M", 3)), 1, 3, id="an unknown length is merged in"),
    pytest.param(Reshaped((2, 3, None), (2, None)), 1, 3, id="unknown lengths"),
    pytest.param(Rearranged(("N", 6, "H"), (("reshape", ("M", 6)),)), 1, 6, id="symbols that differ"),
    pytest.param(Rearranged(("N", 6), (("reshape", (None, 6)),)), 1, 6, id="no symbol"),
]


@pytest.mark.parametrize(("view", "axis", "channels", "target", "source"), LANDS)
def test_channels_land(view: View, axis: int, channels: int, target: int, source: list[int]) -> None:
    image = view.image(axis, channels)
    assert image is not None
    assert image.axis == target
    assert image.source[np.argsort(image.target)].tolist() == list(source)


@pytest.mark.parametrize(("view", "axis", "channels"), LOST)
def test_channels_are_lost(view: View, axis: int, channels: int) -> None:
    assert view.image(axis, channels) is None
