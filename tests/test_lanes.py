"""Components of one structure share a group, and nothing is lost or mixed up on the way."""

import numpy as np

from bnfold.solving.lanes import groups
from bnfold.solving.rows import Kind, Row


def row(*terms: tuple[list[int], object], right: list[float]) -> Row:
    return Row(Kind.SHIFT, tuple((np.array(u), c) for u, c in terms), np.array(right))


def test_channels_of_one_structure_are_lanes() -> None:
    rows = [row(([0, 1, 2], 1.0), ([3, 4, 5], np.array([2.0, 3, 4])), right=[7, 8, 9])]
    (group,) = groups(rows, np.array([0, 3, 6, 7]))
    assert group.unknowns.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert group.rows[0].right.tolist() == [7, 8, 9]
    assert group.rows[0].terms[1][1].tolist() == [2, 3, 4]


def test_a_component_with_another_row_is_a_group_of_its_own() -> None:
    rows = [row(([0, 1, 2], 1.0), ([3, 4, 5], 1.0), right=[0, 0, 0]), row(([4], 1.0), right=[5])]
    first, second = groups(rows, np.array([0, 3, 6]))
    assert first.unknowns.tolist() == [[0, 2], [3, 5]]
    assert second.unknowns.tolist() == [[1], [4]]
    assert [lane.source for lane in second.rows] == [0, 1]


def test_random_systems_are_kept_whole() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = []
        for _ in range(rng.integers(1, 8)):
            n = int(rng.integers(1, 5))
            slots = [(rng.integers(0, 20, n), rng.normal(size=n)) for _ in range(rng.integers(1, 4))]
            rows.append(Row(Kind.SHIFT, tuple(slots), rng.normal(size=n)))
        wanted = sorted(
            (round(float(r.right[k]), 12), sorted((int(u[k]), round(float(c[k]), 12)) for u, c in r.terms))
            for r in rows
            for k in range(len(r.right))
        )
        found = sorted(
            (
                round(float(lane.right[k]), 12),
                sorted((int(group.unknowns[u, k]), round(float(c[k]), 12)) for u, c in lane.terms),
            )
            for group in groups(rows, np.array([0, 4, 8, 15, 20]))
            for lane in group.rows
            for k in range(group.unknowns.shape[1])
        )
        assert found == wanted
