"""A weight that is read slab by slab gives what it gives as a whole."""

import numpy as np
import pytest

from bnfold import graph, numerics
from bnfold.graph import Constant
from bnfold.plan import ScaleWeight
from bnfold.relation import Contracted
from bnfold.rules.weights import channels_of, constant_times_shift, scale_weight, weight_times_shift

CASES = [
    pytest.param((6, 4, 3, 3), 0, 1, 1, id="conv"),
    pytest.param((6, 2, 3), 0, 1, 3, id="conv, groups"),
    pytest.param((6, 1, 3), 0, 1, 6, id="depthwise"),
    pytest.param((4, 6, 3, 3), 1, 0, 1, id="transposed"),
    pytest.param((6, 2, 3), 1, 0, 3, id="transposed, groups"),
    pytest.param((5, 7), 1, 0, 1, id="x W"),
    pytest.param((1, 5, 7), 2, 1, 1, id="a stack of one"),
]


@pytest.mark.parametrize(("shape", "out_axis", "in_axis", "groups"), CASES)
@pytest.mark.parametrize("slab", [1, 20, 1000])
def test_slabs_add_up(shape, out_axis, in_axis, groups, slab, monkeypatch):
    monkeypatch.setattr(graph, "SLAB", slab)
    weight = np.random.default_rng(0).normal(size=shape)
    contracted = Contracted("x", "y", "w", "", 1, 1, out_axis, in_axis, groups)
    inputs, outputs = channels_of(contracted, shape)
    draw = np.random.default_rng(1)
    constant = Constant("w", shape, "float32", lambda: weight, lambda start, stop: weight[start:stop])
    shift = draw.normal(size=inputs)
    summed = constant_times_shift(contracted, constant, shift)
    np.testing.assert_allclose(summed, weight_times_shift(contracted, weight, shift), rtol=1e-12)

    edit = ScaleWeight("node", draw.normal(size=outputs), draw.normal(size=inputs))
    scaled = np.abs(scale_weight(contracted, weight, edit.out_factor, edit.in_factor))
    others = tuple(axis for axis in range(len(shape)) if axis != out_axis)
    after, before = numerics._peaks(contracted, constant, edit)
    np.testing.assert_allclose(after, scaled.max(axis=others), rtol=1e-12)
    np.testing.assert_allclose(before, np.abs(weight).max(axis=others))
