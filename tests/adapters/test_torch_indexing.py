"""Slices among the arguments of a call, with the lengths of their axes."""

import pytest
import torch

from bnfold.adapters.torch_indexing import Part, parts_in

X = torch.zeros(2, 3, 5, 7)
ROWS = slice(1, None)


@pytest.mark.parametrize(
    ("index", "lengths"),
    [
        (ROWS, [2]),
        ((0, ROWS), [3]),
        ((ROWS, 0, ROWS), [2, 5]),
        ((..., ROWS), [7]),
        ((ROWS, ..., ROWS, ROWS), [2, 5, 7]),
        ((ROWS, ROWS, ROWS, ROWS, ...), [2, 3, 5, 7]),
        ((None, ROWS, None, ROWS), [2, 3]),
        (([0, 1], ROWS), [3]),
        ((torch.tensor([0, 1]), ROWS), [3]),
        ((torch.ones(2, 3, dtype=torch.bool), ROWS), [5]),
        ((True, ROWS), [2]),
    ],
)
def test_each_slice_knows_the_length_of_its_axis(index: object, lengths: list[int]) -> None:
    x, found, value = parts_in((X, index, 1.0))
    assert (x is X, value) == (True, 1.0)
    assert [part.length for part in found if isinstance(part, Part)] == lengths
    assert all(part.bounds == (1, None, None) for part in found if isinstance(part, Part))
    assert X[index].ndim >= 1


@pytest.mark.parametrize("args", [(), (X,), (X, 1), (X, (0, [1])), ([X], ROWS), (X, X)])
def test_what_has_no_slice_stays_as_it_is(args: tuple[object, ...]) -> None:
    assert parts_in(args) is args
