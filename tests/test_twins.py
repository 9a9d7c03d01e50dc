"""Groups of one structure are solved as one, and come out as each alone would."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bnfold.candidates import candidates
from bnfold.graph import Graph
from bnfold.solving import problem
from bnfold.solving.lanes import Group, groups
from bnfold.solving.rows import Kind, Row
from bnfold.solving.system import System, Uneven
from bnfold.solving.twins import divided, joined
from tests.networks import network

WIDTHS = (2, 3, 2)  # channels of each pair of tensors x, y


def pairs(*lasts: float) -> tuple[list[Row], list[int], np.ndarray]:
    """Three pairs of tensors: x == 0 always; and a fold by which y - slope * x is 1, and `lasts` in a last row."""
    rows, folds, owner, start, starts = [], [], [], 0, []
    for number, width in enumerate(WIDTHS):
        x, y = np.arange(start, start + width), np.arange(start + width, start + 2 * width)
        slope = -np.arange(1.0, width + 1) - number
        rows.append(Row(Kind.SHIFT, ((x, 1.0),), np.zeros(width)))
        folds.append(Row(Kind.SHIFT, ((y, 1.0), (x, slope)), np.full(width, float(number))))
        folds.append(Row(Kind.SHIFT, ((y, 2.0),), np.full(width, lasts[number])))
        owner += [number, number]
        starts += [start, start + width]
        start += 2 * width
    return rows + folds, [-1] * len(rows) + owner, np.array([*starts, start])


def solved(found: list[Group], owner: list[int], count: int) -> np.ndarray:
    system = System(found, owner, np.zeros(2 * len(WIDTHS), np.bool_))
    for fold in set(owner) - {-1} - system.taken:
        system.take(fold)
    return system.fewest_changes(Kind.SHIFT, np.ones(2 * len(WIDTHS)), count).values


def test_twins_are_one_group_with_all_their_lanes() -> None:
    rows, owner, starts = pairs(0.0, 2.0, 4.0)
    alone = groups(rows, starts)
    (group,) = joined(alone, owner, np.zeros(len(starts) - 1, np.bool_))
    assert group.unknowns.shape == (2, sum(WIDTHS))
    assert group.parts == tuple(alone)
    assert_array_equal(solved([group], owner, starts[-1]), solved(alone, owner, starts[-1]))
    assert System([group], owner, np.zeros(len(starts) - 1, np.bool_)).taken == {0, 1, 2}


def test_another_bias_another_coefficient_or_another_row_is_another_structure() -> None:
    rows, owner, starts = pairs(0.0, 2.0, 4.0)
    absorbs = np.zeros(len(starts) - 1, np.bool_)
    absorbs[2] = True
    assert len(joined(groups(rows, starts), owner, absorbs)) == 2
    other = [*rows]
    other[4] = Row(Kind.SHIFT, ((rows[4].terms[0][0], 3.0),), rows[4].right)
    assert len(joined(groups(other, starts), owner, np.zeros(len(starts) - 1, np.bool_))) == 2
    more = [*rows, Row(Kind.SIGN, ((rows[0].terms[0][0], 1.0),), np.zeros(WIDTHS[0]))]
    assert len(joined(groups(more, starts), [*owner, -1], np.zeros(len(starts) - 1, np.bool_))) == 2


def test_a_fold_of_two_groups_keeps_them_alone() -> None:
    rows, owner, starts = pairs(0.0, 2.0, 4.0)
    shared = [1 if fold == 0 else fold for fold in owner]
    found = joined(groups(rows, starts), shared, np.zeros(len(starts) - 1, np.bool_))
    assert [len(group.parts) for group in found] == [0, 0, 0]


def test_what_contradicts_is_taken_out() -> None:
    rows, owner, starts = pairs(0.0, 2.5, 4.0)
    found = joined(groups(rows, starts), owner, np.zeros(2 * len(WIDTHS), np.bool_))
    with pytest.raises(Uneven) as caught:
        System(found, owner, np.zeros(2 * len(WIDTHS), np.bool_))
    alone, others = divided(found, caught.value.group, caught.value.lanes)
    assert alone.unknowns[0].tolist() == [4, 5, 6]
    assert (alone.parts, len(others.parts)) == ((), 2)
    assert System([alone, others], owner, np.zeros(2 * len(WIDTHS), np.bool_)).taken == {0, 2}


def beside_itself(graph: Graph) -> Graph:
    """The network twice, the second time with other constants: many groups have a twin, some of which contradict."""

    def other(name: str) -> str:
        return f"{name}~" if name else ""

    nodes = [
        replace(
            node,
            name=other(node.name),
            inputs=tuple(map(other, node.inputs)),
            outputs=tuple(map(other, node.outputs)),
            unit=other(node.unit),
        )
        for node in graph.nodes
    ]
    values = {other(name): replace(value, name=other(name)) for name, value in graph.values.items()}
    rng = np.random.default_rng(len(nodes))
    factors = {name: rng.choice([0.5, 1.0, 2.0, -1.0]) for name in graph.constants}
    constants = {
        other(name): replace(old, name=other(name), load=lambda old=old, name=name: old.load() * factors[name])
        for name, old in graph.constants.items()
    }
    return Graph(
        (*graph.inputs, *map(other, graph.inputs)),
        (*graph.outputs, *map(other, graph.outputs)),
        (*graph.nodes, *nodes),
        {**graph.values, **values},
        {**graph.constants, **constants},
    )


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_a_network_is_solved_as_without_twins(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    joins, partings = 0, 0

    def counted_join(*arguments: Any) -> list[Group]:
        nonlocal joins
        found = joined(*arguments)
        joins += any(group.parts for group in found)
        return found

    def counted_parting(found: list[Group], number: int, lanes: np.ndarray) -> list[Group]:
        nonlocal partings
        partings += bool(found[number].parts)
        return divided(found, number, lanes)

    monkeypatch.setattr(problem, "divided", counted_parting)
    for seed in range(start, start + 100):
        graph = beside_itself(network(seed))
        found = candidates(graph)
        monkeypatch.setattr(problem, "joined", counted_join)
        together = problem.solve(graph, found, tensors=False)
        monkeypatch.setattr(problem, "joined", lambda found, owner, absorbs: found)
        alone = problem.solve(graph, found, tensors=False)
        assert (together.taken, together.reasons, together.related) == (alone.taken, alone.reasons, alone.related), seed
        assert together.frames.keys() == alone.frames.keys(), seed
        for name, frame in together.frames.items():
            assert_array_equal(frame.scale, alone.frames[name].scale)
            assert_array_equal(frame.shift, alone.frames[name].shift)
    assert joins > 30
    assert partings > 5
