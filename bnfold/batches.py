"""The channels of many layers in a row: for those of one, NumPy's calls take longer than their arithmetic."""

from collections.abc import Iterator, Sequence

import numpy as np

from bnfold.affine import Floats

MANY = 1 << 12  # channels in a row: their numbers stay in the nearest cache


def in_rows(layers: Sequence[tuple[Floats, ...]]) -> Iterator[tuple[slice, list[Floats]]]:
    """Join the columns of layers that follow each other, some `MANY` channels together.

    layers: of each the same number of arrays, (C,) each. Gives the places of the layers of a row, and the columns.
    """
    start = count = 0
    for place, layer in enumerate(layers, start=1):
        count += len(layer[0])
        if count >= MANY or place == len(layers):
            yield slice(start, place), [np.concatenate(column) for column in zip(*layers[start:place], strict=True)]
            start, count = place, 0
