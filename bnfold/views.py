"""How the channels of one tensor appear in another: which axis becomes which, and which channel is which."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.graph import Dim
from bnfold.record import record

Indices: TypeAlias = NDArray[np.intp]
Shape: TypeAlias = tuple[Dim, ...]
NUMBERED = 1 << 22  # elements, at most, that are numbered to see where they go
PRIMES = (7, 11, 13, 17, 19)  # stand-ins for symbols: two that differ can't be taken for each other


@record(eq=False)
class Image:
    """Channel source[k] of x, along the axis that was asked about, is channel target[k] of y along `axis`.

    is_whole: every channel of x is the channel of the same number.
    """

    axis: int
    source: Indices
    target: Indices
    is_whole: bool = False


class View(ABC):
    """How y shows the elements of x."""

    @abstractmethod
    def image(self, axis: int, channels: int) -> Image | None:
        """Where the `channels` channels of x along `axis` are in y; None where they aren't channels of one axis."""

    def inverse(self) -> "View | None":
        """How x shows the elements of y, where channels of y can be several of x and not the other way round."""
        return None


@lru_cache
def whole(axis: int, channels: int) -> Image:
    """Channel c is channel c."""
    every = np.arange(channels)
    every.flags.writeable = False
    return Image(axis, every, every, is_whole=True)


@record
class Aligned(View):
    """Elementwise, shapes aligned from the right as NumPy broadcasts them."""

    source: Shape
    target: Shape

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the same axis counted from the right, unless x is broadcast along it."""
        moved = axis + len(self.target) - len(self.source)
        wanted = self.target[moved]
        if channels == 1 and wanted != 1:
            return None
        return whole(moved, channels)


@record
class Kept(View):
    """The same axes, whatever becomes of the others (pooling); `lost` axes aren't channels any more."""

    lost: frozenset[int]
    dropped: bool = False  # whether the lost axes are gone from y's shape

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the same axis, less the dropped ones before it."""
        if axis in self.lost:
            return None
        before = sum(other < axis for other in self.lost) if self.dropped else 0
        return whole(axis - before, channels)


@record
class Looked(View):
    """y has `rank` axes in the place of x's first one, whose rows they name."""

    rank: int

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the same axis counted from the right."""
        return whole(axis - 1 + self.rank, channels) if axis > 0 else None


@record
class Permuted(View):
    """numpy.transpose(x, permutation)."""

    permutation: tuple[int, ...]

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the place of the axis in the permutation."""
        return whole(self.permutation.index(axis), channels)


@record(eq=False)
class Picked(View):
    """y holds channels `source` of x along an axis, at `offset` (slice, gather, concat); `drop`: the axis is gone."""

    axis: int
    source: Indices | None  # None: every channel of x
    offset: int = 0
    drop: bool = False

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the picked channels on the picked axis, all of them on the others."""
        if axis != self.axis:
            return whole(axis - (self.drop and axis > self.axis), channels)
        if self.drop:
            return None
        source = np.arange(channels) if self.source is None else self.source % channels
        return Image(axis, source, self.offset + np.arange(len(source)))


@record
class Flipped(View):
    """numpy.flip(x, axes)."""

    axes: tuple[int, ...]

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the channels from the last to the first, on the flipped axes."""
        every = np.arange(channels)
        return Image(axis, every[::-1] if axis in self.axes else every, every)


@record
class Tiled(View):
    """numpy.tile(x, repeats) of an x with `rank` axes, which are the last of y."""

    repeats: tuple[int, ...]
    rank: int

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the channels one time after the other."""
        moved = axis + len(self.repeats) - self.rank
        if channels * self.repeats[moved] > NUMBERED:
            return None
        target = np.arange(channels * self.repeats[moved])
        return Image(moved, target % channels, target)


@record
class Inserted(View):
    """The same axes around a new one, along which y holds other tensors too."""

    axis: int

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the same axis, moved by the new one if that comes before it."""
        return whole(axis + (axis >= self.axis), channels)


@record
class Reshaped(View):
    """The same elements in row-major order."""

    source: Shape
    target: Shape

    def inverse(self) -> View:
        """The way back: where channels part, as from (N, 8) to (N, 2, 4), each of the 2 is 4 of the 8."""
        return Reshaped(self.target, self.source)

    def image(self, axis: int, channels: int) -> Image | None:
        """Number the elements of the run of axes that holds `axis`, and see along which axis of y the numbers go."""
        run = _run_with(axis, self.source, self.target)
        if run is None:
            return None
        before = [dim for dim in self.source[run.source] if isinstance(dim, int)]
        after = [dim for dim in self.target[run.target] if isinstance(dim, int)]
        if len(before) < run.source.stop - run.source.start:  # one symbol on each side: the axis is the axis
            return whole(run.target.start, channels)
        if math.prod(before) > NUMBERED:
            return None
        place = [channels if run.source.start + k == axis else 1 for k in range(len(before))]
        labels = np.broadcast_to(np.arange(channels).reshape(place), before).reshape(after)
        return _varying(labels, run.target.start)


@record
class Blocked(View):
    """DepthToSpace, or SpaceToDepth (`to_depth`), on (N, C, H, W): one channel there is block * block channels here.

    mode CRD: channel c is channels c * block^2 + k; DCR: channels k * C + c, for every place k in the block.
    """

    block: int
    mode: str
    to_depth: bool = False

    def image(self, axis: int, channels: int) -> Image | None:
        """Give the groups of channels that are one; the batch as it is, and no image for rows and columns."""
        if axis == 0:
            return whole(axis, channels)
        if axis != 1 or channels * self.block**2 > NUMBERED:
            return None
        many = np.arange(channels * self.block**2 if self.to_depth else channels)
        few = many // self.block**2 if self.mode == "CRD" else many % (len(many) // self.block**2)
        return Image(axis, few, many) if self.to_depth else Image(axis, many, few)


@record
class Rearranged(View):
    """Reshapes and transpositions one after another (`bnfold.ops.Rearrange`): channels may part in between."""

    source: Shape
    steps: tuple[tuple[str, Shape], ...]

    def image(self, axis: int, channels: int) -> Image | None:
        """Number the channels and move the numbers about, in a tensor with a length of its own for every symbol."""
        symbols = {dim for shape in (self.source, *self._shapes()) for dim in shape if isinstance(dim, str)}
        length = dict(zip(sorted(symbols), PRIMES, strict=False))
        shape = _lengths(self.source, length)
        if shape is None or math.prod(shape) > NUMBERED:
            return None
        place = [channels if k == axis else 1 for k in range(len(shape))]
        labels = np.broadcast_to(np.arange(channels).reshape(place), shape)
        for kind, what in self.steps:
            lengths = _lengths(what, length)
            if lengths is None or (kind == "reshape" and math.prod(lengths) != labels.size):
                return None
            labels = labels.reshape(lengths) if kind == "reshape" else labels.transpose(lengths)
        return _varying(labels, 0)

    def _shapes(self) -> list[Shape]:
        return [what for kind, what in self.steps if kind == "reshape"]


def _lengths(shape: Shape, length: Mapping[str, int]) -> tuple[int, ...] | None:
    """Put numbers in the place of symbols; None where a dimension is unknown."""
    lengths = tuple(length.get(dim) if isinstance(dim, str) else dim for dim in shape)
    return None if any(dim is None for dim in lengths) else tuple(dim for dim in lengths if dim is not None)


def _varying(labels: Indices, start: int) -> Image | None:
    """Give the image along the one axis on which the labels vary; along the longest where none varies."""
    for axis in sorted(range(labels.ndim), key=lambda k: -labels.shape[k]):
        lines = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        if np.all(lines == lines[:, :1]):
            return Image(start + axis, lines[:, 0], np.arange(len(lines)))
    return None


@record
class _Run:
    """A run of x's axes that becomes a run of y's."""

    source: slice
    target: slice


def _run_with(axis: int, source: Shape, target: Shape) -> _Run | None:
    """Find the least such run that holds `axis`, from the left, else from the right (an unknown batch in between)."""
    for run in _runs(source, target):
        if run.source.start <= axis < run.source.stop:
            return run
    n, m = len(source), len(target)
    for run in _runs(source[::-1], target[::-1]):
        if run.source.start <= n - 1 - axis < run.source.stop:
            mirrored = slice(n - run.source.stop, n - run.source.start)
            return _Run(mirrored, slice(m - run.target.stop, m - run.target.start))
    return None


def _runs(source: Shape, target: Shape) -> list[_Run]:
    """Match the axes from the left as far as it goes: equal symbols, or runs of numbers with equal products."""
    found: list[_Run] = []
    i = j = 0
    while i < len(source) and j < len(target):
        start, begin = i, j
        first, second = source[i], target[j]
        i, j = i + 1, j + 1
        if isinstance(first, str) and first == second:
            found.append(_Run(slice(start, i), slice(begin, j)))
            continue
        while isinstance(first, int) and isinstance(second, int) and first != second:
            more, j_grows = (target[j : j + 1], True) if first > second else (source[i : i + 1], False)
            if not more or not isinstance(more[0], int):
                return found
            first, second = (first, second * more[0]) if j_grows else (first * more[0], second)
            i, j = (i, j + 1) if j_grows else (i + 1, j)
        if not (isinstance(first, int) and isinstance(second, int)):
            return found
        found.append(_Run(slice(start, i), slice(begin, j)))
    return found
