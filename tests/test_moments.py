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
    moved = in_frame(one, (Affine(1, np.array([2.0, -3.0]), np.array([1.0, 5.0])),))
    assert moved is not None
    assert np.allclose(moved.mean, [0.0, 1.0])
    assert np.allclose(moved.variance, [1.0, 1.0])
    assert in_frame(one, (Affine(2, np.full(2, 3.0), np.zeros(2)),)) is None


def test_several_frames_move_them_one_after_another() -> None:
    """T = 2 (3 T' + 5) + 1: T' = (T - 11) / 6."""
    one = normal(1, MEAN, VARIANCE, "x")
    frames = [Affine(1, np.full(2, scale), np.full(2, shift)) for scale, shift in ((2.0, 1.0), (3.0, 5.0))]
    moved = in_frame(one, tuple(frames))
    assert moved is not None
    assert np.allclose(moved.mean, (MEAN - 11) / 6)
    assert in_frame(one, (frames[0], Affine(2, np.full(2, 3.0), np.zeros(2)))) is None


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
    x = normal(1, np.array([0.0, 1.0]), np.ones(2), "x").leaning(np.array([1e-3, 2e-3]), np.zeros(2))
    assert np.allclose(x.off, [1e-3, 2e-3])
    assert np.allclose(through(lambda v: np.maximum(v, 0), x).off, [0.5e-3, 2e-3 * 0.8413], rtol=0.03)
    assert np.allclose(through(lambda v: 0 * v, x).leaning(np.ones(2), np.ones(2)).off, 0.0)


def test_what_is_off_in_proportion_follows_the_function() -> None:
    """(1 + k) (x - E[x]) before tanh, and what samples say that it becomes behind it."""
    off, gain = np.array([1e-3, -2e-3]), np.array([3e-3, 1e-3])
    x = normal(1, np.array([0.2, 1.0]), np.array([1.0, 0.5]), "x").leaning(off, gain)
    assert np.allclose((x.off, x.gain), (off, gain))
    values = x.mean + np.sqrt(x.variance) * np.random.default_rng(0).normal(size=(400_000, 2))
    y, moved = np.tanh(values), np.tanh(values + off + gain * (values - x.mean))
    bent = through(np.tanh, x)
    assert np.allclose(bent.off, (moved - y).mean(axis=0), rtol=0.02)
    along = ((moved - y) * (y - y.mean(axis=0))).mean(axis=0)
    assert np.allclose(bent.gain, along / y.var(axis=0), rtol=0.02)
    again = bent.leaning(bent.off, bent.gain)
    assert np.allclose((again.lean, again.stretch), (x.lean, x.stretch))


def test_sums_and_products_pass_on_what_is_off() -> None:
    """Of tensors that vary independently; as samples have it."""
    u, v = (
        normal(1, mean, variance, name).leaning(off, gain)
        for name, mean, variance, off, gain in (
            ("u", MEAN, VARIANCE, np.array([1e-3, 2e-3]), np.array([3e-3, -1e-3])),
            ("v", -MEAN, VARIANCE / 9, np.array([-2e-3, 1e-3]), np.array([1e-3, 2e-3])),
        )
    )
    rng = np.random.default_rng(0)
    exact = [one.mean + np.sqrt(one.variance) * rng.normal(size=(400_000, 2)) for one in (u, v)]
    moved = [x + one.off + one.gain * (x - one.mean) for x, one in zip(exact, (u, v), strict=True)]
    for found, combine in (
        (summed([(u, 1.0), (v, -2.0)], "sum"), lambda a, b: a - 2 * b),
        (multiplied(u, v, "product"), np.multiply),
    ):
        y = combine(*exact)
        error = combine(*moved) - y
        assert found is not None
        assert np.allclose(found.off, error.mean(axis=0), rtol=0.05, atol=2e-5)
        along = (error * (y - y.mean(axis=0))).mean(axis=0)
        assert np.allclose(found.gain, along / y.var(axis=0), rtol=0.05, atol=2e-5)


def test_parts_that_are_known_by_themselves_make_a_whole() -> None:
    unknown = np.array([np.nan])
    first = normal(1, np.array([1.0, np.nan]), np.array([4.0, np.nan]), "a")
    second = normal(1, np.array([np.nan, 2.0]), np.array([np.nan, 9.0]), "b")
    second = second.leaning(np.array([0.0, 0.5]), np.array([0.0, 0.25]))
    whole = joined([first, second])
    assert np.allclose(whole.mean, MEAN)
    assert np.allclose(whole.variance, VARIANCE)
    assert np.allclose(whole.off, [0.0, 0.5])
    assert np.allclose(whole.gain, [0.0, 0.25])
    assert joined([first, normal(1, unknown, unknown, "c")]).channels == 1
