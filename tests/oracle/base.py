"""The registry that the operators' definitions fill."""

from collections.abc import Sequence
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from bnfold import ops

Array = NDArray[np.float64]
Operands = Sequence[Array | None]
Shapes = Sequence[tuple[int, ...]]

PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # NumPy's names


@singledispatch
def compute(op: ops.Op, inputs: Operands, shapes: Shapes) -> Array | tuple[Array, ...]:
    raise NotImplementedError(op)
