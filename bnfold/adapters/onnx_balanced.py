"""Weights in half precision that are rounded row by row, against the mean of their input."""

import threading
from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from bnfold.adapters.onnx_content import Block, Content, Scaled, Scratch, blocks_of
from bnfold.adapters.onnx_evaluators import Array
from bnfold.dtypes import numpy_dtype
from bnfold.plan import Balance
from bnfold.record import record
from bnfold.rounding import faithful, is_exact

_WHOLE = threading.Lock()  # two weights at once that aren't taken block by block would need memory for both


@record(eq=False, slots=False)
class Balanced(Scaled):
    """A scaled weight whose rows are rounded so that their errors cancel (`bnfold.rounding`)."""

    balance: Balance

    def blocks(self, scratch: Scratch) -> Iterator[tuple[Block, Array]]:
        """Give the weight in blocks of whole rows; all of it at once where a row isn't in one place."""
        every = (slice(None),) * len(self.shape)
        if self.contracted.out_axis == 0 and all(block[1:] == every[1:] for block in blocks_of(self.shape)):
            yield from super().blocks(scratch)
        else:
            with _WHOLE:
                yield every, self.weight.array()

    def scaled(self, block: Block, before: Array, scratch: Scratch) -> Array:
        """Give the new numbers of a block, each one of the two neighbours of the exact one."""
        numbers = before.astype(np.float64)
        for factor, axis in self._factors:
            numbers *= self._of_block(factor, axis, block)
        rows = block[0] if self.contracted.out_axis == 0 else slice(None)
        exact = is_exact(self.out_factor, self.in_factor)
        after = faithful(self.contracted, numbers, self.dtype, self.balance, rows, is_stored=exact)
        return after.astype(numpy_dtype(self.dtype))

    def same_as(self, other: Content) -> bool:
        """Compare what they are rounded against, too."""
        return (
            isinstance(other, Balanced)
            and super().same_as(other)
            and all(
                np.array_equal(getattr(self.balance, part.name), getattr(other.balance, part.name))
                for part in fields(Balance)
            )
        )
