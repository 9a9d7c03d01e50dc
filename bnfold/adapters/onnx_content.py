"""The numbers of tensors that a fold writes: scaled weights block by block, small ones at once; rounded once."""

import contextlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from bnfold.adapters.onnx_constants import Known
from bnfold.adapters.onnx_evaluators import Array
from bnfold.adapters.onnx_tensors import CODES, DTYPES
from bnfold.affine import Floats, some
from bnfold.dtypes import numpy_dtype
from bnfold.record import record
from bnfold.relation import Contracted

Block: TypeAlias = tuple[slice, ...]
_Number = TypeVar("_Number", bound=np.generic)
BLOCK = 1 << 17  # elements at a time: before, after and checked they are 1.5 MiB, which stays in a core's cache
_ROWS = 256  # elements of NumPy's buffer


class Scratch(threading.local):
    """Arrays that one block after another is worked on in: the system clears each page of a fresh one.

    Each thread has its own.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[Any]] = {}
        self._bytes: dict[str, bytearray] = {}

    def array(self, use: str, shape: tuple[int, ...], dtype: np.dtype[_Number]) -> NDArray[_Number]:
        """Give the array for a use, with whatever stands in it."""
        count = math.prod(shape)
        held = self._held.get(use)
        if held is None or held.dtype != dtype or held.size < count:
            held = self._held[use] = np.empty(count, dtype)
        return held[:count].reshape(shape)

    def bytes(self, use: str, count: int) -> bytearray:
        """Give at least so many bytes for a use, with whatever stands in them."""
        held = self._bytes.get(use)
        if held is None or len(held) < count:
            held = self._bytes[use] = bytearray(count)
        return held


@contextlib.contextmanager
def row_by_row() -> Iterator[None]:
    """Let NumPy take rows of 256 elements and more as they are; what overflows is for the audit to refuse.

    Its buffer of 8,192 gathers several, and copies a factor that is broadcast along them as well, which costs as much
    as the multiplication.
    """
    before = np.setbufsize(_ROWS)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        np.setbufsize(before)


class Content(ABC):
    """A tensor to be written."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """The number of bytes that the blocks add up to."""
        return -(-math.prod(self.shape) * DTYPES[CODES[self.dtype]][1] // 8)

    @abstractmethod
    def same_as(self, other: "Content") -> bool:
        """Whether both write the same bytes."""


@record(eq=False)
class Dense(Content):
    """Numbers that are at hand in float64."""

    numbers: Floats
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of the numbers."""
        return self.numbers.shape

    def same_as(self, other: Content) -> bool:
        """Compare the numbers."""
        return (
            isinstance(other, Dense)
            and self.dtype == other.dtype
            and self.shape == other.shape
            and np.array_equal(self.numbers, other.numbers, equal_nan=True)
        )


@record(eq=False, slots=False)
class Scaled(Content):
    """A weight times out_factor (out,) and in_factor (in,), as `bnfold.plan.ScaleWeight` says."""

    weight: Known
    contracted: Contracted
    out_factor: Floats
    in_factor: Floats

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The weight's shape."""
        return self.weight.shape

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """The weight's dtype."""
        return self.weight.dtype

    def blocks(self, scratch: Scratch) -> Iterator[tuple[Block, Array]]:
        """Give the parts of the weight in order, each until the next is asked for."""
        return stored_blocks(self.weight, scratch)

    def scaled(self, block: Block, before: Array, scratch: Scratch) -> Array:
        """Give the new numbers of a block, rounded once; they hold until the next block's are asked for."""
        factors = [self._of_block(factor, axis, block) for factor, axis in self._factors]
        if not factors or self.dtype == "bfloat16":
            numbers = before.astype(np.float64)
            for factor in factors:
                numbers *= factor
            return rounded(numbers, self.dtype)
        *first, last = factors
        for factor in first:
            wide = scratch.array("wide", before.shape, np.dtype(np.float64))
            before = np.multiply(before, factor, out=wide, dtype=np.float64)
        after: Array = scratch.array("after", before.shape, numpy_dtype(self.dtype))
        np.multiply(before, last, out=after, dtype=np.float64, casting="unsafe")
        return after

    @cached_property
    def _factors(self) -> list[tuple[Floats, int]]:
        """The factors with their axes; those that are all 1 left out."""
        sides = ((self.out_factor, self.contracted.out_axis), (self.in_factor, self.contracted.in_axis))
        return [(factor, axis) for factor, axis in sides if some(factor != 1)]

    def _of_block(self, factor: Floats, axis: int, block: Block) -> Floats:
        """Shape a factor so that it broadcasts against the block."""
        if self.contracted.groups > 1 and axis == 1:
            return self._by_group(factor, block)
        place = [1] * len(self.shape)
        place[axis] = -1
        return factor[block[axis]].reshape(place)

    def _by_group(self, factor: Floats, block: Block) -> Floats:
        """Row r of the weight belongs to group r // (rows / groups); its columns are that group's channels."""
        rows, columns = self.shape[:2]
        groups = self.contracted.groups
        group = np.arange(rows)[block[0]] // (rows // groups)
        chosen: Floats = factor.reshape(groups, columns)[group][:, block[1]]
        return chosen.reshape(*chosen.shape, *(1,) * (len(self.shape) - 2))

    def same_as(self, other: Content) -> bool:
        """Compare the factors and what they are along."""
        return (
            isinstance(other, Scaled)
            and self.weight is other.weight
            and self._plain() == other._plain()
            and np.array_equal(self.out_factor, other.out_factor)
            and np.array_equal(self.in_factor, other.in_factor)
        )

    def _plain(self) -> tuple[int, int, int]:
        return self.contracted.out_axis, self.contracted.in_axis, self.contracted.groups


def stored_blocks(weight: Known, scratch: Scratch) -> Iterator[tuple[Block, Array]]:
    """Read a tensor in contiguous blocks, each in its own shape."""
    whole = weight.array() if weight.tensor is None else None
    first = 0
    for block in blocks_of(weight.shape):
        if whole is not None:
            yield block, whole[block]
            continue
        assert weight.tensor is not None
        shape = tuple(_length(part, size) for part, size in zip(block, weight.shape, strict=True))
        numbers = scratch.array("before", shape, numpy_dtype(weight.dtype))
        weight.tensor.read_into(first, numbers)
        yield block, numbers
        first += numbers.size


def _length(part: slice, size: int) -> int:
    """Count what a part of an axis holds, one of `blocks_of`."""
    return size if part.stop is None else part.stop - part.start


def blocks_of(shape: tuple[int, ...], limit: int = BLOCK) -> Iterator[Block]:
    """Cut a tensor into contiguous blocks of at most `limit` elements, in the order of its bytes."""
    if 0 in shape:
        return
    if math.prod(shape) <= limit:
        yield (slice(None),) * len(shape)
        return
    axis = next(k for k in range(len(shape)) if math.prod(shape[k + 1 :]) <= limit)
    rest = (slice(None),) * (len(shape) - axis - 1)
    step = max(1, limit // math.prod(shape[axis + 1 :]))
    for outer in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], step):
            at = (*(slice(k, k + 1) for k in outer), slice(start, min(start + step, shape[axis])))
            yield at + rest


def rounded(numbers: Floats, dtype: str) -> Array:
    """Round float64 once, to nearest even. Overflow gives infinities, which the audit refuses."""
    with np.errstate(all="ignore"):
        if dtype != "bfloat16":
            return numbers.astype(numpy_dtype(dtype))
        return _to_odd(numbers).astype(numpy_dtype(dtype))


def _to_odd(numbers: Floats) -> NDArray[np.float32]:
    """Round to float32 so that a second rounding to bfloat16 gives what one would have given.

    Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums": cut off, and keep a sticky last bit.
    """
    nearest = numbers.astype(np.float32)
    exact = nearest.astype(np.float64)
    bits = nearest.view(np.uint32).copy()
    bits -= (np.abs(exact) > np.abs(numbers)).astype(np.uint32)  # back toward zero
    bits |= (exact != numbers).astype(np.uint32) & np.isfinite(numbers).astype(np.uint32)
    return bits.view(np.float32)
