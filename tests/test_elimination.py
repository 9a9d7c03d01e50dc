"""The elimination against NumPy's dense least squares, on random sparse systems, and its way back."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bnfold.solving.elimination import Contradiction, Divided, Elimination

LANES = 3


def system(seed: int, modulus: int) -> tuple[list[dict[int, float]], np.ndarray]:
    """Rows with few unknowns; every third right-hand side is made inconsistent."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (8, LANES)).astype(float) if modulus else rng.normal(size=(8, LANES))
    rows, rights = [], []
    for number in range(12):
        chosen = rng.choice(8, size=rng.integers(1, 4), replace=False)
        row = {int(unknown): 1.0 if modulus else float(rng.choice([-1, 1, 0.5])) for unknown in chosen}
        right = sum(value * truth[unknown] for unknown, value in row.items())
        rights.append((right + (number % 3 == 2)) % modulus if modulus else right + (number % 3 == 2))
        rows.append(row)
    return rows, np.array(rights)


def dense(rows: list[dict[int, float]]) -> np.ndarray:
    matrix = np.zeros((len(rows), 8))
    for number, row in enumerate(rows):
        for unknown, value in row.items():
            matrix[number, unknown] = value
    return matrix


def dense_lanes(values: dict[int, np.ndarray], count: int) -> np.ndarray:
    """Give (unknowns, lanes), with zeros for the unknowns that aren't there."""
    return np.stack([values.get(unknown, np.zeros(LANES)) for unknown in range(count)])


def is_consistent(matrix: np.ndarray, right: np.ndarray, modulus: int) -> bool:
    if modulus:
        return all(
            any(np.array_equal(matrix @ bits % 2, right[:, lane]) for bits in np.ndindex(*(2,) * 8))
            for lane in range(1)
        )
    solved = np.linalg.lstsq(matrix, right, rcond=None)[0]
    return bool(np.allclose(matrix @ solved, right, atol=1e-9))


@pytest.mark.parametrize("modulus", [0, 2])
@pytest.mark.parametrize("seed", range(20))
def test_takes_what_is_consistent_and_solves_it(seed: int, modulus: int) -> None:
    rows, rights = system(seed, modulus)
    elimination = Elimination(LANES, range(8), modulus)
    taken: list[int] = []
    for number, row in enumerate(rows):
        mark = elimination.mark()
        before = dict(elimination.pivots)
        try:
            elimination.insert(list(row.items()), rights[number], number)
        except Contradiction as contradiction:
            assert not is_consistent(dense([rows[k] for k in (*taken, number)]), rights[[*taken, number]], modulus)
            named = [k for k in range(12) if contradiction.rows >> k & 1]
            assert set(named) <= {*taken, number}
            assert not is_consistent(dense([rows[k] for k in named]), rights[named], modulus)
            elimination.undo(mark)
            assert elimination.pivots == before
            continue
        taken.append(number)
    solution = dense_lanes(elimination.solution(), 8)
    fewest = dense_lanes(elimination.fewest_changes(np.ones((8, LANES))), 8)
    for values in (solution, fewest):
        found = dense([rows[k] for k in taken]) @ values
        assert_allclose(found % modulus if modulus else found, rights[taken], atol=1e-9)
    assert np.sum(fewest == 0) >= np.sum(solution == 0)


def test_lanes_that_come_to_differ_are_told_apart() -> None:
    elimination = Elimination(2, range(2))
    elimination.insert([(0, 1.0), (1, np.array([2.0, 3.0]))], np.zeros(2), 0)
    with pytest.raises(Divided) as caught:
        elimination.insert([(0, 1.0), (1, np.array([2.0, 4.0]))], np.zeros(2), 1)
    assert caught.value.lanes.tolist() == [True, False]


def test_equal_means_equal_beside_the_terms() -> None:
    elimination = Elimination(1, range(3))
    elimination.insert([(0, 1.0)], np.array([1e6]), 0)
    elimination.insert([(0, 1.0)], np.array([1e6 * (1 + 1e-14)]), 1)
    with pytest.raises(Contradiction):
        elimination.insert([(0, 1.0)], np.array([1e6 + 1]), 2)


def test_a_long_chain_is_walked_once() -> None:
    elimination = Elimination(1, range(3001))
    for unknown in range(3000):
        elimination.insert([(unknown, 1.0), (unknown + 1, -1.0)], np.ones(1), unknown)
    solution = elimination.solution()
    assert_allclose([solution[unknown][0] for unknown in range(3000)], 3000 - np.arange(3000))
    assert 3000 not in solution


def test_terms_stay_in_proportion_however_often_pivots_change() -> None:
    """Each row expresses all pivots anew: what cancels on the way must not count, or nothing contradicts any more."""
    rng = np.random.default_rng(0)
    truth, slopes = rng.normal(size=(80, LANES)), rng.uniform(0.5, 2, 80)
    elimination = Elimination(LANES, range(80))
    for k in range(1, 80):
        elimination.insert([(0, 1.0), (k, -slopes[k])], truth[0] - slopes[k] * truth[k], k)
    solution = dense_lanes(elimination.fewest_changes(np.ones((80, LANES))), 80)
    for k in range(1, 80):
        wanted = truth[0] - slopes[k] * truth[k]
        assert_allclose(solution[0] - slopes[k] * solution[k], wanted, rtol=1e-9, atol=1e-9)
    wrong = slopes[70] * truth[70] - slopes[71] * truth[71] + 1e-6
    with pytest.raises(Contradiction):
        elimination.insert([(70, slopes[70]), (71, -slopes[71])], wrong, 80)
