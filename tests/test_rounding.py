"""Rounding in half precision: every number a neighbour of the exact one, and what rows are off on average vanishes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.affine import Floats
from bnfold.plan import Balance
from bnfold.relation import Contracted
from bnfold.rounding import PULL, UNIT, _beside, faithful, nearest

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
PLAIN = Contracted("x", "y", "w", "", 1, 1, 0, 1)


def every(dtype: str) -> Floats:
    """All finite numbers of a type, in order."""
    with np.errstate(invalid="ignore"):  # signalling NaN are among them
        bits = np.arange(1 << 16, dtype=np.uint16).view(KINDS[dtype]).astype(np.float64)
    return np.unique(bits[np.isfinite(bits)])


ALL = {dtype: every(dtype) for dtype in KINDS}


def neighbours(numbers: Floats, dtype: str) -> tuple[Floats, Floats]:
    """The greatest number of the type that isn't above, and the least that isn't below."""
    known = ALL[dtype]
    return known[np.searchsorted(known, numbers, "right") - 1], known[np.searchsorted(known, numbers, "left")]


@pytest.mark.parametrize("dtype", KINDS)
def test_nearest_comes_to_the_nearest_and_ties_to_even(dtype: str) -> None:
    rng = np.random.default_rng(0)
    known = ALL[dtype]
    middles = (known[1:] + known[:-1]) / 2
    numbers = np.concatenate([rng.normal(size=1000), middles[::97], np.nextafter(middles[::97], np.inf)])
    low, high = neighbours(numbers, dtype)
    got = nearest(numbers, dtype)
    assert np.array_equal(np.abs(got - numbers), np.minimum(numbers - low, high - numbers))
    tied = got[1000 : 1000 + len(middles[::97])]
    assert np.all(tied.astype(KINDS[dtype]).view(np.uint16) % 2 == 0)


@pytest.mark.parametrize("dtype", KINDS)
@given(seed=st.integers(0, 1000), columns=st.integers(1, 40))
def test_each_number_is_a_neighbour_and_the_loss_never_rises(dtype: str, seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(5, columns)) * 10.0 ** rng.uniform(-9, 2, (5, 1))
    exact[0, :: max(1, columns // 2)] = 0.0
    mean, variance = rng.normal(1, 1, columns), rng.uniform(0, 2, columns)
    residue = rng.normal(size=5) * np.abs(exact).max(axis=1) * 2e-4

    def loss(rounded: Floats) -> Floats:
        error, size = rounded - exact, np.sqrt(exact**2 @ variance)
        gain = np.divide((error * exact) @ variance, size, out=np.zeros(5), where=size > 0)
        return PULL * ((error @ mean + residue) ** 2 + gain**2) + error**2 @ variance

    got = faithful(PLAIN, exact, dtype, Balance(mean, variance, np.zeros(columns), residue))
    low, high = neighbours(exact, dtype)
    assert np.all((got == low) | (got == high))
    assert np.all(loss(got) <= loss(nearest(exact, dtype)) * (1 + 1e-9))


@pytest.mark.parametrize("dtype", KINDS)
def test_a_long_row_is_off_by_next_to_nothing_and_little_noise_is_added(dtype: str) -> None:
    rng = np.random.default_rng(1)
    exact, mean = rng.normal(size=(8, 600)), rng.uniform(0.3, 0.7, 600)
    unit = np.abs(np.subtract(*neighbours(exact, dtype))).max()
    residue = rng.uniform(-2, 2, 8) * unit
    near, got = (
        nearest(exact, dtype),
        faithful(PLAIN, exact, dtype, Balance(mean, np.ones_like(mean), np.zeros_like(mean), residue)),
    )
    assert np.abs((got - exact) @ mean + residue).max() < unit / 4
    assert np.abs((near - exact) @ mean + residue).max() > unit
    assert np.square(got - exact).sum() < 1.1 * np.square(near - exact).sum()


@pytest.mark.parametrize("dtype", KINDS)
def test_without_a_mean_every_number_is_the_nearest(dtype: str) -> None:
    exact = np.random.default_rng(2).normal(size=(3, 50))
    got = faithful(PLAIN, exact, dtype, Balance(*np.zeros((3, 50)), np.full(3, 0.01)))
    assert np.array_equal(got, nearest(exact, dtype))


@pytest.mark.parametrize("dtype", KINDS)
def test_stored_numbers_move_by_one_unit_for_the_bias_and_zeros_stay(dtype: str) -> None:
    rng = np.random.default_rng(6)
    stored = nearest(rng.normal(size=(6, 60)), dtype)
    stored[:, ::7] = 0.0
    mean, residue = rng.uniform(0.3, 0.7, 60), rng.uniform(-1, 1, 6) * 1e-3
    balance = Balance(mean, np.ones(60), np.zeros(60), residue)
    got = faithful(PLAIN, stored, dtype, balance, is_stored=True)
    place, known = np.searchsorted(ALL[dtype], stored), ALL[dtype]
    assert np.all((got == known[place - 1]) | (got == stored) | (got == known[place + 1]))
    assert np.all(got[:, ::7] == 0)
    assert np.abs((got - stored) @ mean + residue).max() < np.abs(residue).max() / 10
    assert np.array_equal(faithful(PLAIN, stored, dtype, balance), stored)


@pytest.mark.parametrize("dtype", KINDS)
def test_a_gain_of_the_input_is_made_up_for_number_by_number(dtype: str) -> None:
    """With x (1 + g) in the place of x, W' (1 - g) is nearer to what was meant; each number stays beside W'."""
    rng = np.random.default_rng(5)
    exact, gain = rng.normal(size=(8, 300)), rng.uniform(-1, 1, 300) * UNIT[dtype]
    balance = Balance(np.zeros(300), np.ones(300), gain, np.zeros(8))
    got = faithful(PLAIN, exact, dtype, balance)
    low, high = neighbours(exact, dtype)
    assert np.all((got == low) | (got == high))
    missed, before = (one * (1 + gain) - exact for one in (got, nearest(exact, dtype)))
    assert np.square(missed).sum() < 0.75 * np.square(before).sum()


@pytest.mark.parametrize("dtype", KINDS)
def test_beside_gives_the_next_number(dtype: str) -> None:
    known = ALL[dtype]
    stored = known.astype(KINDS[dtype])
    assert np.array_equal(_beside(stored, np.ones(len(known)))[:-1], known[1:])
    assert np.array_equal(_beside(stored, -np.ones(len(known)))[1:], known[:-1])
    zeros = np.array([0.0, -0.0]).astype(KINDS[dtype])
    least = known[known > 0][0]
    assert np.array_equal(_beside(zeros, np.ones(2)), [least, least])
    assert np.array_equal(_beside(zeros, -np.ones(2)), [-least, -least])


def test_the_largest_number_has_no_neighbour_above() -> None:
    exact = np.array([[65500.0, 65503.9, 1000.3, 0.7]])
    got = faithful(PLAIN, exact, "float16", Balance(np.ones(4), np.ones(4), np.zeros(4), np.array([-50.0])))
    assert np.isfinite(got).all()
    assert np.array_equal(got[0, :2], [65504.0, 65504.0])


LAYOUTS = [
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 0, 1), (6, 4), id="Linear"),
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 1, 0), (4, 6), id="MatMul, Gemm"),
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 0, 1), (6, 4, 3, 2), id="Conv"),
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 0, 1, 2), (6, 4, 3, 2), id="Conv, two groups"),
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 0, 1, 6), (6, 1, 3), id="Conv, depthwise"),
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 1, 0), (4, 6, 3), id="ConvTranspose"),
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 1, 0, 2), (4, 3, 3, 2), id="ConvTranspose, two groups"),
    pytest.param(Contracted("x", "y", "w", "", 1, 1, 2, 1), (1, 4, 6), id="MatMul, a stack of one"),
]


def seen(linear: Contracted, weight: Floats, mean: Floats) -> Floats:
    """Sum of weight times mean by output channel, number by number from the operators' definitions."""
    outputs = weight.shape[linear.out_axis] * (linear.groups if linear.out_axis > linear.in_axis else 1)
    total = np.zeros(outputs)
    for place in np.ndindex(*weight.shape):
        o, i = place[linear.out_axis], place[linear.in_axis]
        if linear.groups > 1 and linear.out_axis < linear.in_axis:
            i += o // (outputs // linear.groups) * weight.shape[1]
        elif linear.groups > 1:
            o += i // (weight.shape[0] // linear.groups) * weight.shape[1]
        total[o] += weight[place] * mean[i]
    return total


@pytest.mark.parametrize(("linear", "shape"), LAYOUTS)
def test_every_layout_is_balanced_against_its_own_inputs(linear: Contracted, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    exact = rng.normal(size=shape)
    grouped = linear.groups if linear.in_axis > linear.out_axis else 1
    mean = rng.normal(2, 1, shape[linear.in_axis] * grouped)
    residue = rng.normal(size=len(seen(linear, exact, mean))) * 1e-3
    got = faithful(linear, exact, "float16", Balance(mean, np.ones_like(mean), np.zeros_like(mean), residue))
    before = np.abs(seen(linear, nearest(exact, "float16") - exact, mean) + residue)
    after = np.abs(seen(linear, got - exact, mean) + residue)
    assert np.all(after <= before)
    assert after.sum() < 0.75 * before.sum()


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_by_themselves_come_out_as_in_the_whole(groups: int) -> None:
    linear = Contracted("x", "y", "w", "", 1, 1, 0, 1, groups)
    rng = np.random.default_rng(4)
    exact = rng.normal(size=(6, 5, 3))
    balance = Balance(
        *rng.uniform(0.5, 2, (2, 5 * groups)), rng.normal(size=5 * groups) * 1e-3, rng.normal(size=6) * 1e-3
    )
    whole = faithful(linear, exact, "bfloat16", balance)
    parts = [faithful(linear, exact[k : k + 2], "bfloat16", balance, slice(k, k + 2)) for k in (0, 2, 4)]
    assert np.array_equal(np.concatenate(parts), whole)
