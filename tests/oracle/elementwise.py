"""Affines, arithmetic, activations."""

import numpy as np

from bnfold import ops
from tests.oracle.base import Array, Operands, Shapes, compute


@compute.register
def _unknown(op: ops.Unknown, inputs: Operands, shapes: Shapes) -> Array:
    return {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "sin": np.sin, "softplus": lambda x: np.logaddexp(x, 0)}[
        op.kind
    ](inputs[0])


@compute.register
def _shape_of(op: ops.ShapeOf, inputs: Operands, shapes: Shapes) -> Array:
    return np.array(inputs[0].shape)


@compute.register
def _batch_norm(op: ops.BatchNorm, inputs: Operands, shapes: Shapes) -> Array:
    x, gamma, beta, mean, variance = inputs
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        y[:, c] = (x[:, c] - mean[c]) / np.sqrt(variance[c] + op.eps)
        y[:, c] *= 1 if gamma is None else gamma[c]
        y[:, c] += 0 if beta is None else beta[c]
    return y


@compute.register
def _affine(op: ops.Affine, inputs: Operands, shapes: Shapes) -> Array:
    x, scale, shift = inputs
    return np.moveaxis(np.moveaxis(x, op.axis, -1) * scale + shift, -1, op.axis)


@compute.register
def _binary(op: ops.Binary, inputs: Operands, shapes: Shapes) -> Array:
    left, right = inputs[0], op.alpha * inputs[1]
    return {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power}[op.kind](
        left, right
    )


@compute.register
def _unary(op: ops.Unary, inputs: Operands, shapes: Shapes) -> Array:
    return {
        "neg": np.negative,
        "sqrt": np.sqrt,
        "rsqrt": lambda x: x**-0.5,
        "reciprocal": lambda x: 1 / x,
        "square": np.square,
    }[op.kind](inputs[0])


@compute.register
def _sum(op: ops.Sum, inputs: Operands, shapes: Shapes) -> Array:
    total: Array = np.zeros(shapes[0])
    for coefficient, x in zip(op.coefficients, inputs, strict=True):
        total = total + coefficient * x
    return total


@compute.register
def _product(op: ops.Product, inputs: Operands, shapes: Shapes) -> Array:
    total: Array = np.ones(shapes[0])
    for x in inputs:
        total = total * x
    return total


@compute.register
def _relu(op: ops.Relu, inputs: Operands, shapes: Shapes) -> Array:
    return np.where(inputs[0] > 0, inputs[0], 0.0)


@compute.register
def _leaky_relu(op: ops.LeakyRelu, inputs: Operands, shapes: Shapes) -> Array:
    return np.where(inputs[0] > 0, inputs[0], op.slope * inputs[0])


@compute.register
def _p_relu(op: ops.PRelu, inputs: Operands, shapes: Shapes) -> Array:
    return np.where(inputs[0] > 0, inputs[0], inputs[1] * inputs[0])


@compute.register
def _abs(op: ops.Abs, inputs: Operands, shapes: Shapes) -> Array:
    return np.abs(inputs[0])


@compute.register
def _clip(op: ops.Clip, inputs: Operands, shapes: Shapes) -> Array:
    low = -np.inf if op.lo is None else op.lo
    high = np.inf if op.hi is None else op.hi
    return np.minimum(np.maximum(inputs[0], low), high)


@compute.register
def _channel_clip(op: ops.ChannelClip, inputs: Operands, shapes: Shapes) -> Array:
    x, low, high = inputs
    return np.moveaxis(np.minimum(np.maximum(np.moveaxis(x, op.axis, -1), low), high), -1, op.axis)


@compute.register(ops.Identity)
@compute.register(ops.Cast)
def _identity(op: ops.Op, inputs: Operands, shapes: Shapes) -> Array:
    return inputs[0]


@compute.register
def _extremum(op: ops.Extremum, inputs: Operands, shapes: Shapes) -> Array:
    choose = {"max": np.maximum, "min": np.minimum}[op.kind]
    y = inputs[0]
    for x in inputs[1:]:
        y = choose(y, x)
    return y
