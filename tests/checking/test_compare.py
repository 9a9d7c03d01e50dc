"""The judgement on one output, on numbers made for it."""

import math

import numpy as np
import pytest

from bnfold.checking.compare import Comparison
from bnfold.checking.measures import Side, ulp
from bnfold.checking.result import Verdict
from bnfold.checking.tolerance import TABLE, budget_for
from bnfold.errors import BnfoldError

UNIT = 2.0**-24


def comparison(mode="float32"):
    return Comparison("y", "y", "float32", budget_for(mode))


def numbers(shape=(8, 6, 5), seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=shape)
    reference, candidate = (
        (truth + UNIT * generator.normal(size=shape) * np.abs(truth).max()).astype(np.float32) for _ in range(2)
    )
    return truth, reference, candidate


def judged(truth, reference, candidate, samples=3):
    one = comparison()
    for i in range(samples):
        one.add(f"s{i}", truth, reference, candidate)
    return one.record()


def test_rounding_passes():
    record = judged(*numbers())
    assert record.verdict is Verdict.VERIFIED
    assert 0.8 < record.error_ratio < 1.25
    assert record.allowed_ratio == pytest.approx(3 * (1 + 2 / math.sqrt(240)))
    assert record.elements == 3 * 240
    assert record.candidate.cosine == pytest.approx(1)
    assert sum(b.count for b in record.candidate.ulp) == record.elements
    assert sum(b.count for b in record.candidate.error_log10) == record.elements


@pytest.mark.parametrize("size", [1e160, 1e-170])
def test_what_has_no_square_is_not_verified(size):
    """Their squares are infinite or zero, and so would be error and budget alike."""
    truth = size * np.random.default_rng(2).normal(size=(8, 6))
    one = Comparison("y", "y", "float64", budget_for("float64"))
    one.add("s", truth, truth, 1.5 * truth)
    assert one.record().verdict is Verdict.UNVERIFIED
    assert "squares leave float64 (s)" in one.record().why


def test_a_difference_comes_before_a_doubt():
    truth, reference, candidate = numbers()
    one = comparison()
    one.add("odd", np.full_like(truth, np.nan), np.full_like(reference, np.nan), candidate * np.float32(np.nan))
    assert one.record().verdict is Verdict.UNVERIFIED
    one.add("plain", truth, reference, 2 * candidate)
    assert one.record().verdict is Verdict.DIFFERENT


def test_an_error_that_is_nothing_beside_the_scale_has_a_bin():
    side = Side("float32")
    truth = np.array([1e38, 0.0])
    side.add(truth, np.array([1e38, 5e-324]), np.ones(2, bool))
    assert side.log_counts.tolist()[:2] == [1, 1]


def test_an_empty_sample_is_told():
    truth, reference, candidate = numbers()
    one = comparison()
    one.add("full", truth, reference, candidate)
    one.add("empty", truth[:0], reference[:0], candidate[:0])
    assert one.record().verdict is Verdict.VERIFIED
    assert list(one.doubts()) == ["y has no element on empty, so nothing was compared there"]


@pytest.mark.parametrize("count", [1, 8, 10_000])
def test_the_fewer_numbers_the_more_they_may_err(count):
    """What is granted is what the report shows, and is as much as the verdict needs."""
    truth = np.random.default_rng(1).normal(size=count)
    reference = (truth + UNIT * truth).astype(np.float64)  # its own error is one unit of each
    granted = 3 * (1 + 2 / math.sqrt(count))
    for factor, verdict in ((0.98, Verdict.VERIFIED), (1.02, Verdict.DIFFERENT)):
        record = judged(truth, reference, truth + factor * granted * UNIT * truth)
        assert record.verdict is verdict
        assert record.allowed_ratio == pytest.approx(granted)
        assert record.error_ratio == pytest.approx(factor * granted)


def test_one_channel_is_named():
    truth, reference, candidate = numbers((64, 40, 5))
    candidate[:, 17] *= 1 + np.float32(2e-6)
    record = judged(truth, reference, candidate)
    assert record.verdict is Verdict.DIFFERENT
    assert record.exceeded.test == "channel"
    assert record.exceeded.channel == 17
    assert record.channels[0].channel == 17
    assert "channel 17" in record.why


def test_one_element_is_named():
    truth, reference, candidate = numbers((4, 3, 40, 40))
    candidate[2, 1, 0, 39] += np.float32(1e-5)
    record = judged(truth, reference, candidate)
    assert record.verdict is Verdict.DIFFERENT
    assert record.exceeded.test == "peak"
    assert record.exceeded.index == (2, 1, 0, 39)


def test_a_quiet_sample_is_judged_by_its_own_scale():
    loud, quiet = numbers(seed=1), [side / 1e4 for side in numbers(seed=2)]
    one = comparison()
    one.add("loud", *loud)
    one.add("quiet", quiet[0], quiet[1], quiet[2] * np.float32(1 + 1e-5))
    record = one.record()
    assert record.verdict is Verdict.DIFFERENT
    assert record.exceeded.input == "quiet"


def test_ill_conditioned_is_no_pass():
    truth, _, _ = numbers()
    noise = np.random.default_rng(1).normal(size=truth.shape) * 0.01
    record = judged(truth, (truth + noise).astype(np.float32), truth.astype(np.float32))
    assert record.verdict is Verdict.UNVERIFIED
    assert "ill-conditioned" in record.why


def test_zeros_that_rounding_moves_are_ill_conditioned():
    zeros = np.zeros((2, 3))
    record = judged(zeros, np.full((2, 3), 1e-9, "f"), zeros.astype(np.float32))
    assert record.verdict is Verdict.UNVERIFIED
    assert "inf of its scale" in record.why


def test_an_ill_conditioned_sample_widens_no_other():
    one = comparison()
    for i in range(5):
        one.add(f"s{i}", *numbers(seed=i))
    truth, reference, candidate = (side / 1e6 for side in numbers(seed=9))
    one.add("cancelled", truth, reference + np.float32(1e-8), candidate)
    truth, reference, candidate = numbers(seed=7)
    one.add("wrong", truth, reference, candidate * np.float32(1 + 1e-5))
    assert one.record().verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("truth", "reference", "candidate", "verdict"),
    [
        pytest.param(np.inf, np.inf, np.inf, Verdict.VERIFIED, id="the same infinity"),
        pytest.param(np.inf, np.inf, -np.inf, Verdict.UNVERIFIED, id="another infinity"),
        pytest.param(np.nan, np.nan, np.nan, Verdict.UNVERIFIED, id="NaN everywhere"),
        pytest.param(1.0, 1.0, np.nan, Verdict.DIFFERENT, id="NaN in the candidate"),
        pytest.param(1.0, 1.0, np.inf, Verdict.DIFFERENT, id="Inf in the candidate"),
        pytest.param(np.nan, np.nan, 1.0, Verdict.DIFFERENT, id="NaN gone"),
        pytest.param(7e4, np.inf, np.inf, Verdict.UNVERIFIED, id="overflow on both sides"),
        pytest.param(7e4, np.inf, 7e4, Verdict.UNVERIFIED, id="overflow in the reference"),
    ],
)
def test_special_values(truth, reference, candidate, verdict):
    sides = [np.asarray(side).copy() for side in numbers()]
    for side, value in zip(sides, (truth, reference, candidate), strict=True):
        side[0, 0, 0] = value
    assert judged(*sides).verdict is verdict


def test_all_zero_candidate_is_different():
    truth, reference, candidate = numbers()
    assert judged(truth, reference, np.zeros_like(candidate)).verdict is Verdict.DIFFERENT


def test_zeros_on_all_sides_pass():
    zeros = np.zeros((2, 3))
    assert judged(zeros, zeros.astype(np.float32), zeros.astype(np.float32)).verdict is Verdict.VERIFIED


def test_arg_max_counts_only_clear_rows():
    truth = np.array([[1.0, 2.0, 0.0], [1.0, 1.0 + 1e-9, 0.0]])
    side = Side("float32")
    side.add(truth, truth, np.ones(truth.shape, bool))
    flipped = truth[:, [1, 0, 2]]
    side.add_ranks(truth, flipped, budget=1e-6)
    assert side.rows == 1
    assert side.measures().argmax == 0


def test_top_five_in_any_order():
    truth = np.arange(16.0).reshape(2, 8)
    other = truth.copy()
    other[0, 3:] = other[0, :2:-1]  # the same five, turned round
    other[1, :2] += 100  # two of the last three instead of two of the first five
    side = Side("float32")
    side.add(truth, other, np.ones(truth.shape, bool))
    side.add_ranks(truth, other, budget=1e-6)
    assert side.measures().top5 == (5 + 3) / 10


def test_unlike_dtypes_differ():
    truth, reference, candidate = numbers()
    assert "dtype float64" in judged(truth, reference, candidate.astype(np.float64)).why


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_ulp_is_numpy_spacing(dtype):
    values = np.array([1e-3, 0.5, 1.0, 3.0, 1000.0], dtype)
    assert np.array_equal(ulp(values.astype(np.float64), dtype), np.spacing(values).astype(np.float64))


def test_every_budget_has_its_reason():
    assert all(len(row.why) > 10 and 0 < row.unit < row.ceiling < 1 for row in TABLE.values())
    assert math.isclose(budget_for("float32", {"rms": 2.5}).rms, 2.5)
    for wrong in ({"rsm": 1.0}, {"rms": -1.0}, {"rms": math.nan}):
        with pytest.raises(BnfoldError):
            budget_for("float32", wrong)
    with pytest.raises(BnfoldError, match="no budget for"):
        budget_for("int8")
