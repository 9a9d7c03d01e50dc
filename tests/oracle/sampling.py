"""Pooling, reduction, resizing, padding.

Operators that don't say how they sample do it here in one way that their shapes decide, with overlapping windows that
reach over the border, so that padding counts.
"""

import numpy as np

from bnfold import ops
from tests.oracle.base import PAD_MODES, Array, Operands, Shapes, compute


@compute.register
def _max_pool(op: ops.MaxPool, inputs: Operands, shapes: Shapes) -> Array | tuple[Array, ...]:
    x = inputs[0]
    y = np.empty(shapes[0])
    for place, window, _ in _windows(x.shape, shapes[0]):
        y[(..., *place)] = x[(..., *window)].reshape(*x.shape[:2], -1).max(axis=-1)
    if len(shapes) == 1:
        return y
    flat = x.reshape(*x.shape[:2], -1)
    indices = [[[np.flatnonzero(line == top)[0] for top in tops.ravel()] for line, tops in zip(*pair, strict=True)]
               for pair in zip(flat, y, strict=True)]  # fmt: skip
    return y, np.array(indices).reshape(y.shape)


@compute.register
def _avg_pool(op: ops.AvgPool, inputs: Operands, shapes: Shapes) -> Array:
    x = inputs[0]
    y = np.empty(shapes[0])
    for place, window, full in _windows(x.shape, shapes[0]):
        part = x[(..., *window)].reshape(*x.shape[:2], -1)
        y[(..., *place)] = part.sum(axis=-1) / (full if op.counts_padding else part.shape[-1])
    return y


def _windows(source: tuple[int, ...], target: tuple[int, ...]):
    """Windows that share the input between them and reach one further on either side, over the border too."""
    for place in np.ndindex(*target[2:]):
        low = [k * n // m - 1 for k, n, m in zip(place, source[2:], target[2:], strict=True)]
        high = [-(-(k + 1) * n // m) + 1 for k, n, m in zip(place, source[2:], target[2:], strict=True)]
        window = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, source[2:], strict=True))
        yield place, window, np.prod(np.subtract(high, low))


@compute.register
def _reduce(op: ops.Reduce, inputs: Operands, shapes: Shapes) -> Array:
    function = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}[op.kind]
    return function(inputs[0], axis=op.axes, keepdims=op.keepdims)


@compute.register
def _resize(op: ops.Resize, inputs: Operands, shapes: Shapes) -> Array:
    """Cubic (Keys 1981, a = -0.75), the border repeated; `affine` False: zeros beyond the border."""
    y = inputs[0]
    for axis, (n, m) in enumerate(zip(inputs[0].shape, shapes[0], strict=True)):
        if n == m:
            continue
        matrix = np.zeros((m, n))
        for k in range(m):
            at = (k + 0.5) * n / m - 0.5
            for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                if op.affine or 0 <= tap < n:
                    matrix[k, min(max(tap, 0), n - 1)] += _cubic(abs(at - tap))
        y = np.moveaxis(np.tensordot(matrix, y, axes=(1, axis)), 0, axis)
    return y


def _cubic(t: float, a: float = -0.75) -> float:
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


@compute.register
def _pad(op: ops.Pad, inputs: Operands, shapes: Shapes) -> Array:
    grown = [(max(low, 0), max(high, 0)) for low, high in op.pads]
    if op.mode == "constant":
        y = np.pad(inputs[0], grown, constant_values=op.value)
    else:
        y = np.pad(inputs[0], grown, mode=PAD_MODES[op.mode])
    crop = tuple(slice(max(-low, 0), n - max(-high, 0)) for n, (low, high) in zip(y.shape, op.pads, strict=True))
    return y[crop]
