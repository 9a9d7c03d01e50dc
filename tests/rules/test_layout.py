import numpy as np
import pytest

from bnfold.ops import (
    DepthToSpace,
    Expand,
    Flip,
    Rearrange,
    Reshape,
    Select,
    SpaceToDepth,
    Split,
    Take,
    Tile,
    Transpose,
)
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT
from tests.rules.law import Case, law_tests

ANY = "scale sign shift"
X = (2, 3, 4, 5)


def reshape(before, after, axis, name):
    return pytest.param(Case(Reshape(), (before,), (after,)), axis, ANY, id=name)


SHUFFLE = (("reshape", (2, 2, 3, 4)), ("transpose", (0, 2, 1, 3)), ("reshape", (2, 6, 4)))
HOLDS = [
    pytest.param(Case(Rearrange(SHUFFLE), ((2, 6, 4),)), 1, ANY, id="channel shuffle"),
    pytest.param(Case(Rearrange(SHUFFLE), ((2, 6, 4),)), 2, ANY, id="channel shuffle, last axis"),
    *(pytest.param(Case(Transpose((0, 2, 3, 1)), (X,)), axis, ANY, id=f"to NHWC, axis {axis}") for axis in range(4)),
    pytest.param(Case(Transpose((3, 1, 0, 2)), (X,)), 2, ANY, id="transpose, all axes move"),
    reshape(X, (2, 60), 1, "flatten"),
    reshape((2, 3, 1, 1), (2, 3), 1, "flatten after global pooling"),
    reshape((2, 3, 4), (6, 4), 2, "batch and tokens merge"),
    reshape((6, 4), (2, 3, 4), 1, "batch and tokens part"),
    reshape((2, 3), (2, 3, 1, 1), 1, "unsqueeze"),
    reshape((1, 3, 4), (3, 4), 1, "squeeze"),
    reshape((2, 1, 6), (2, 2, 3), 1, "an axis of one part"),
    reshape((2, 3, 4, 5), (2, 3, 20), 1, "rows and columns merge"),
    reshape((2, 3, 20), (2, 3, 4, 5), 1, "rows and columns part"),
    reshape((2, 2, 3, 4), (2, 6, 4), 1, "groups merge, frames by group"),
    reshape((2, 2, 3, 4), (2, 6, 4), 2, "groups merge, frames within a group"),
    reshape((6,), (6,), 0, "no change"),
    reshape((2, 6, 4), (2, 2, 3, 4), 1, "channels part"),
    reshape((5, 12), (5, 3, 2, 2), 1, "features become channels and pixels"),
    pytest.param(Case(Expand(), ((3, 1, 1),), ((2, 3, 4, 5),)), 0, ANY, id="expand, channels move from the right"),
    pytest.param(Case(Expand(), ((2, 3, 1),), ((2, 3, 4),)), 1, ANY, id="expand"),
    pytest.param(Case(Expand(), ((1, 1, 2),), ((3, 1, 2),)), 1, ANY, id="expand, one channel"),
    pytest.param(Case(Take(1, (2, 0)), (X,)), 1, ANY, id="gather of channels"),
    pytest.param(Case(Take(1, (1, 1, 0, 1)), (X,)), 1, ANY, id="gather with repeats"),
    pytest.param(Case(Take(1, (-1, -2, -3)), (X,)), 1, ANY, id="flip by negative indices"),
    pytest.param(Case(Take(2, (1, 2)), (X,)), 1, ANY, id="crop of rows"),
    pytest.param(Case(Select(2, 1), (X,)), 1, ANY, id="one row"),
    pytest.param(Case(Select(1, 2), (X,)), 3, ANY, id="one channel, frames on columns"),
    pytest.param(Case(Split(1, (1, 2)), (X,)), 1, ANY, id="split of channels"),
    pytest.param(Case(Split(2, (1, 3)), (X,)), 1, ANY, id="split of rows"),
    pytest.param(Case(Split(2, (1, 1, 1, 1), drop=True), (X,)), 1, ANY, id="unbind of rows"),
    pytest.param(Case(Split(1, (1, 1, 1), drop=True), (X,)), 3, ANY, id="unbind of channels, frames on columns"),
    *(pytest.param(Case(Flip((1, 3)), (X,)), axis, ANY, id=f"flip, axis {axis}") for axis in range(4)),
    pytest.param(Case(Tile((1, 1, 2, 3)), (X,)), 1, ANY, id="tile of rows and columns"),
    pytest.param(Case(Tile((1, 2, 1, 1)), (X,)), 1, ANY, id="tile of channels"),
    pytest.param(Case(Tile((2, 3, 1)), ((3, 4),)), 0, ANY, id="tile to another rank"),
    *(
        pytest.param(Case(op(2, mode), (shape,)), axis, ANY, id=f"{op.__name__} {mode}, axis {axis}")
        for op, shape in ((DepthToSpace, (2, 8, 2, 3)), (SpaceToDepth, (2, 3, 4, 6)))
        for mode in ("CRD", "DCR")
        for axis in (0, 1)
    ),
    pytest.param(Case(DepthToSpace(3), ((2, 9, 2, 1),)), 1, ANY, id="pixel shuffle to one channel"),
]
STOPS = [
    pytest.param(Case(Rearrange(SHUFFLE[:2]), ((2, 6, 4),)), 1, SCALE, Why.RESHAPE, id="channels part in a chain"),
    pytest.param(Case(Reshape(), ((4, 6),), ((6, 4),)), 0, SCALE, Why.RESHAPE, id="a reshape that shears"),
    pytest.param(Case(Reshape(), (("n", 6, "t"),), ((None, 6, 4),)), 1, SHIFT, Why.RESHAPE, id="unknown sizes"),
    pytest.param(Case(Expand(), ((2, 1, 4),), ((2, 3, 4),)), 1, SCALE, Why.BROADCAST, id="expand of the channels"),
    pytest.param(Case(Expand(), (np.ones((1, 1, 1)),), ((2, 3, 4),)), 1, SCALE, Why.NO_RULE, id="expand of a number"),
    pytest.param(Case(Select(1, 2), (X,)), 1, SCALE, Why.RESHAPE, id="one channel"),
    pytest.param(Case(Split(1, (1, 1, 1), drop=True), (X,)), 1, SCALE, Why.RESHAPE, id="unbind of channels"),
    pytest.param(Case(DepthToSpace(2), ((2, 8, 2, 3),)), 2, SCALE, Why.RESHAPE, id="pixel shuffle, rows"),
    pytest.param(Case(SpaceToDepth(2), ((2, 3, 4, 6),)), 3, SCALE, Why.RESHAPE, id="pixel unshuffle, columns"),
    pytest.param(
        Case(Take(1, (0,)), (X,), dtypes={"x0": "int64", "y0": "int64"}), 1, SCALE, Why.NO_RULE, id="integers"
    ),
]


test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)
