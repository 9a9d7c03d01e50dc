"""Linear operators."""

import itertools
from collections.abc import Sequence

import numpy as np

from bnfold import ops
from tests.oracle.base import PAD_MODES, Array, Operands, Shapes, compute


@compute.register
def _conv(op: ops.Conv, inputs: Operands, shapes: Shapes) -> Array:
    x, weight, bias = (*inputs, None)[:3]
    pads = op.pads or _same(x.shape[2:], weight.shape[2:], op.strides, op.dilations)
    every = [(0, 0), (0, 0), *pads]
    x = np.pad(x, every) if op.pad_mode == "zeros" else np.pad(x, every, mode=PAD_MODES[op.pad_mode])
    kernel = weight.shape[2:]
    size = [
        (n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(x.shape[2:], op.dilations, kernel, op.strides, strict=True)
    ]
    y = np.zeros((x.shape[0], weight.shape[0], *size))
    per_in, per_out = weight.shape[1], weight.shape[0] // op.groups
    for g, place in itertools.product(range(op.groups), np.ndindex(*kernel)):
        window = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(place, op.dilations, size, op.strides, strict=True)
        )
        part = x[(slice(None), slice(g * per_in, (g + 1) * per_in), *window)]
        taps = weight[(slice(g * per_out, (g + 1) * per_out), slice(None), *place)]
        y[:, g * per_out : (g + 1) * per_out] += np.einsum("ni...,oi->no...", part, taps)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(kernel))


def _same(size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list:
    total = [
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    return [(pad // 2, pad - pad // 2) for pad in total]


@compute.register
def _conv_transpose(op: ops.ConvTranspose, inputs: Operands, shapes: Shapes) -> Array:
    x, weight, bias = (*inputs, None)[:3]
    kernel = weight.shape[2:]
    full = [
        (n - 1) * s + d * (k - 1) + 1 + extra
        for n, s, d, k, extra in zip(x.shape[2:], op.strides, op.dilations, kernel, op.output_padding, strict=True)
    ]
    per_in, per_out = x.shape[1] // op.groups, weight.shape[1]
    y = np.zeros((x.shape[0], per_out * op.groups, *full))
    for c, o, place in itertools.product(range(x.shape[1]), range(per_out), np.ndindex(*kernel)):
        window = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(place, op.dilations, x.shape[2:], op.strides, strict=True)
        )
        y[(slice(None), c // per_in * per_out + o, *window)] += x[:, c] * weight[(c, o, *place)]
    crop = tuple(slice(low, n - high) for n, (low, high) in zip(full, op.pads or [(0, 0)] * len(full), strict=True))
    y = y[(slice(None), slice(None), *crop)]
    return y if bias is None else y + bias.reshape(-1, *[1] * len(kernel))


@compute.register
def _linear(op: ops.Linear, inputs: Operands, shapes: Shapes) -> Array:
    x, weight, bias = (*inputs, None)[:3]
    y = np.einsum("...i,oi->...o", x, weight)
    return y if bias is None else y + bias


@compute.register
def _gemm(op: ops.Gemm, inputs: Operands, shapes: Shapes) -> Array:
    a, b, c = (*inputs, None)[:3]
    a, b = a.T if op.trans_a else a, b.T if op.trans_b else b
    y = op.alpha * np.einsum("mk,kn->mn", a, b)
    return y if c is None else y + op.beta * c


@compute.register
def _mat_mul(op: ops.MatMul, inputs: Operands, shapes: Shapes) -> Array:
    left, right, bias = (*inputs, None)[:3]
    y = np.matmul(left, right)
    return y if bias is None else y + bias


@compute.register
def _bilinear(op: ops.Bilinear, inputs: Operands, shapes: Shapes) -> Array:
    first, weight, bias, second = inputs
    y = np.einsum("...i,oij,...j->...o", first, weight, second)
    return y if bias is None else y + bias


@compute.register
def _einsum(op: ops.Einsum, inputs: Operands, shapes: Shapes) -> Array:
    operands = op.equation.count(",") + 1
    y = np.einsum(op.equation, *inputs[:operands])
    return y if len(inputs) == operands else y + inputs[operands]
