"""Slices among the arguments of a call, with the lengths of their axes."""

import pytest
import torch

from bnfold.adapters.torch_indexing import Part, parts_in

X = torch.zeros(2, 3, 5, 7)
ROWS = slice(1, None)


@pytest.mark.parametrize(
    ("index", "axes"),
    [
        (ROWS, [0]),
        ((0, ROWS), [1]),
        ((ROWS, 0, ROWS), [0, 2]),
        ((..., ROWS), [3]),
        ((ROWS, ..., ROWS, ROWS), [0, 2, 3]),
        ((ROWS, ROWS, ROWS, ROWS, ...), [0, 1, 2, 3]),
        ((None, ROWS, None, ROWS), [0, 1]),
        (([0, 1], ROWS), [1]),
        ((torch.tensor([0, 1]), ROWS), [1]),
        ((torch.ones(2, 3, dtype=torch.bool), ROWS), [2]),
        ((True, ROWS), [0]),
    ],
)
def test_each_slice_knows_its_axis_and_the_length_of_that(index: object, axes: list[int]) -> None:
    x, found, value = parts_in((X, index, 1.0))
    assert (x is X, value) == (True, 1.0)
    parts = [part for part in found if isinstance(part, Part)]
    assert [(part.axis, part.length) for part in parts] == [(axis, X.shape[axis]) for axis in axes]
    assert all(part.bounds == (1, None, None) for part in parts)
    assert X[index].ndim >= 1


@pytest.mark.parametrize("args", [(), (X,), (X, 1), (X, (0, [1])), ([X], ROWS), (X, X)])
def test_what_has_no_slice_stays_as_it_is(args: tuple[object, ...]) -> None:
    assert parts_in(args) is args
