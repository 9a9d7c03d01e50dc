"""Which channels the elements of a block of a weight join, for the audit of an ONNX write."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.adapters.onnx_content import Block
from bnfold.relation import Contracted

Places: TypeAlias = NDArray[np.intp]


def channels_of_block(contracted: Contracted, shape: tuple[int, ...], block: Block, side: int) -> Places:
    """Number the output (side 0) or input (1) channel of each element of a block, shaped to broadcast against it."""
    axis, other = (contracted.out_axis, contracted.in_axis)[:: -1 if side else 1]
    channels = _along(axis, shape, block)
    if contracted.groups == 1 or axis < other:
        return channels
    return _along(0, shape, block) // (shape[0] // contracted.groups) * shape[1] + channels


def _along(axis: int, shape: tuple[int, ...], block: Block) -> Places:
    """Number a block's elements along an axis."""
    places = np.arange(*block[axis].indices(shape[axis]))
    return places.reshape([-1 if k == axis else 1 for k in range(len(shape))])
