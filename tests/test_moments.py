"""The algebra of moments: frames, sums and products, parts of a whole."""

import numpy as np

from bnfold.affine import Affine
from bnfold.moments import in_frame, joined, multiplied, normal, summed, through

MEAN, VARIANCE = np.array([1.0, 2.0]), np.array([4.0, 9.0])


def test_a_normal_variable_has_its_mean_and_variance() -> None:
    one = normal(1, MEAN, VARIANCE, "x")
    assert np.allclose(one.mean, MEAN)
    assert np.allclose(one.variance, VARIANCE)
    assert not one.off.any()


def test_a_frame_moves_them_as_it_moves_the_tensor() -> None:
    one = normal(1, MEAN, VARIANCE, "x")
    moved = in_frame(one, Affine(1, np.array([2.0, -3.0]), np.array([1.0, 5.0])))
    assert moved is not None
    assert np.allclose(moved.mean, [0.0, 1.0])
    assert np.allclose(moved.variance, [1.0, 1.0])
    assert in_frame(one, Affine(2, np.full(2, 3.0), np.zeros(2))) is None


def test_tensors_of_one_origin_vary_together() -> None:
    x, other = normal(1, MEAN, VARIANCE, "x"), normal(1, MEAN, VARIANCE, "other")
    nothing, apart = summed([(x, 1.0), (x, -1.0)], "d"), summed([(x, 1.0), (other, -1.0)], "d")
    assert nothing is not None
    assert apart is not None
    assert np.allclose(nothing.variance, 0.0)
    assert np.allclose(apart.variance, 2 * VARIANCE)
    square, product = multiplied(x, x, "p"), multiplied(x, other, "p")
    assert square is not None
    assert product is not None
    assert np.allclose(square.mean, MEAN**2 + VARIANCE)
    assert np.allclose(product.mean, MEAN**2)


def test_tensors_of_other_sizes_have_no_sum() -> None:
    x, other = normal(1, MEAN, VARIANCE, "x"), normal(2, MEAN, VARIANCE, "other")
    assert summed([(x, 1.0), (other, 1.0)], "sum") is None
    assert multiplied(x, other, "product") is None


def test_what_is_off_follows_the_slope() -> None:
    """E[relu(x + d)] - E[relu(x)] is d P(x > 0), to first order."""
    x = normal(1, np.array([0.0, 1.0]), np.ones(2), "x").leaning(np.array([1e-3, 2e-3]))
    assert np.allclose(x.off, [1e-3, 2e-3])
    assert np.allclose(through(lambda v: np.maximum(v, 0), x).off, [0.5e-3, 2e-3 * 0.8413], rtol=0.03)
    assert np.allclose(through(lambda v: 0 * v, x).leaning(np.ones(2)).off, 0.0)


def test_parts_that_are_known_by_themselves_make_a_whole() -> None:
    unknown = np.array([np.nan])
    first = normal(1, np.array([1.0, np.nan]), np.array([4.0, np.nan]), "a")
    second = normal(1, np.array([np.nan, 2.0]), np.array([np.nan, 9.0]), "b").leaning(np.array([0.0, 0.5]))
    whole = joined([first, second])
    assert np.allclose(whole.mean, MEAN)
    assert np.allclose(whole.variance, VARIANCE)
    assert np.allclose(whole.off, [0.0, 0.5])
    assert joined([first, normal(1, unknown, unknown, "c")]).channels == 1
