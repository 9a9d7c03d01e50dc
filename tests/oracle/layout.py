"""Operators that move numbers about."""

import itertools

import numpy as np

from bnfold import ops
from tests.oracle.base import Array, Operands, Shapes, compute


@compute.register
def _transpose(op: ops.Transpose, inputs: Operands, shapes: Shapes) -> Array:
    return np.transpose(inputs[0], op.permutation)


@compute.register
def _reshape(op: ops.Reshape, inputs: Operands, shapes: Shapes) -> Array:
    return np.reshape(inputs[0], shapes[0])


@compute.register
def _rearrange(op: ops.Rearrange, inputs: Operands, shapes: Shapes) -> Array:
    x = inputs[0]
    for kind, what in op.steps:
        x = np.transpose(x, what) if kind == "transpose" else np.reshape(x, what)
    return x


@compute.register
def _expand(op: ops.Expand, inputs: Operands, shapes: Shapes) -> Array:
    return np.broadcast_to(inputs[0], shapes[0])


@compute.register
def _take(op: ops.Take, inputs: Operands, shapes: Shapes) -> Array:
    return np.take(inputs[0], op.indices, axis=op.axis)


@compute.register
def _lookup(op: ops.Lookup, inputs: Operands, shapes: Shapes) -> Array:
    return inputs[0][inputs[1].astype(int)]


@compute.register
def _parameter(op: ops.Parameter, inputs: Operands, shapes: Shapes) -> Array:
    return inputs[0]


@compute.register
def _select(op: ops.Select, inputs: Operands, shapes: Shapes) -> Array:
    return np.take(inputs[0], op.index, axis=op.axis)


@compute.register
def _split(op: ops.Split, inputs: Operands, shapes: Shapes) -> tuple[Array, ...]:
    parts = np.split(inputs[0], np.cumsum(op.sizes)[:-1], axis=op.axis)
    return tuple(part.squeeze(op.axis) if op.drop else part for part in parts)


@compute.register
def _flip(op: ops.Flip, inputs: Operands, shapes: Shapes) -> Array:
    return np.flip(inputs[0], op.axes)


@compute.register
def _tile(op: ops.Tile, inputs: Operands, shapes: Shapes) -> Array:
    return np.tile(inputs[0], op.repeats)


@compute.register
def _stack(op: ops.Stack, inputs: Operands, shapes: Shapes) -> Array:
    return np.stack(inputs, axis=op.axis)


@compute.register
def _depth_to_space(op: ops.DepthToSpace, inputs: Operands, shapes: Shapes) -> Array:
    """ONNX's definition of DepthToSpace, both modes."""
    n, c, h, w = inputs[0].shape
    b = op.block
    if op.mode == "DCR":
        parts = inputs[0].reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = inputs[0].reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // b**2, h * b, w * b)


@compute.register
def _space_to_depth(op: ops.SpaceToDepth, inputs: Operands, shapes: Shapes) -> Array:
    """What DepthToSpace of the same mode undoes."""
    n, c, h, w = inputs[0].shape
    b = op.block
    y = np.empty((n, c * b**2, h // b, w // b))
    for channel, i, j in itertools.product(range(c), range(b), range(b)):
        place = channel * b**2 + i * b + j if op.mode == "CRD" else (i * b + j) * c + channel
        y[:, place] = inputs[0][:, channel, i::b, j::b]
    return y


@compute.register
def _concat(op: ops.Concat, inputs: Operands, shapes: Shapes) -> Array:
    return np.concatenate(inputs, axis=op.axis)
