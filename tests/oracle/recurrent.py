"""Recurrent layers, step by step, as ONNX's specification defines them. The steps are axis 0.

The operands are ONNX's, with weights of one or both directions in one tensor, or torch's, (x, and for each direction
weight_ih, weight_hh, bias_ih?, bias_hh?). The gates stand in whatever order: a rule that needs it would be wrong.
"""

import numpy as np

from bnfold import ops
from tests.oracle.base import Array, Operands, Shapes, compute

SEQUENCE_LENS, STATE, CELL = 4, 5, 6  # ONNX's operands


def _sigmoid(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2


def _step(kind: str, given: Array, kept: Array, weight: Array, bias: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """given: W x + b. kept: R h + rb. weight, bias: R and rb."""
    size = h.shape[-1]
    cut = [slice(k * size, (k + 1) * size) for k in range(4)]
    match kind:
        case "RNN":
            return np.tanh(given + kept), c
        case "GRU":
            z, r = (_sigmoid(given[:, k] + kept[:, k]) for k in cut[:2])
            new = np.tanh(given[:, cut[2]] + (r * h) @ weight[cut[2]].T + bias[cut[2]])
            return (1 - z) * new + z * h, c
        case "GRU, reset after":
            z, r = (_sigmoid(given[:, k] + kept[:, k]) for k in cut[:2])
            return (1 - z) * np.tanh(given[:, cut[2]] + r * kept[:, cut[2]]) + z * h, c
        case "LSTM":
            i, o, f = (_sigmoid(given[:, k] + kept[:, k]) for k in cut[:3])
            c = f * c + i * np.tanh(given[:, cut[3]] + kept[:, cut[3]])
            return o * np.tanh(c), c
    raise NotImplementedError(kind)


def _run(kind: str, x: Array, operands: tuple[Array, ...], h: Array, c: Array, lengths: Array) -> tuple[Array, ...]:
    """Run one direction. operands: W, R, b, rb. lengths: how many steps each sequence has; what is behind is 0."""
    weight, recurrent, bias, kept_bias = operands
    y = np.zeros((*x.shape[:2], h.shape[-1]))
    for t, step in enumerate(x):
        given, kept = step @ weight.T + bias, h @ recurrent.T + kept_bias
        new = _step(kind, given, kept, recurrent, kept_bias, h, c)
        inside = (t < lengths)[:, None]
        h, c = np.where(inside, new[0], h), np.where(inside, new[1], c)
        y[t] = np.where(inside, h, 0)
    return y, h, c


def _reversed(x: Array, lengths: Array) -> Array:
    """Turn each sequence around, and leave what is behind its end."""
    y = x.copy()
    for n, length in enumerate(np.asarray(lengths, int)):
        y[:length, n] = x[:length, n][::-1]
    return y


@compute.register
def _recurrent(op: ops.Recurrent, inputs: Operands, shapes: Shapes) -> tuple[Array, ...]:
    x = inputs[0]
    stacked = inputs[op.parts[0][0]].ndim == 3
    ways = list(_ways(op, inputs, stacked))
    extra = (*inputs, *[None] * 7) if stacked else [None] * 7
    lengths = np.full(x.shape[1], len(x)) if extra[SEQUENCE_LENS] is None else extra[SEQUENCE_LENS]
    found = []
    for number, operands in enumerate(ways):
        zero = np.zeros((x.shape[1], operands[1].shape[-1]))
        h, c = (zero if extra[k] is None else extra[k][number] for k in (STATE, CELL))
        own = _reversed(x, lengths) if number else x
        y, h, c = _run(op.kind, own, operands, h, c, lengths)
        found.append((_reversed(y, lengths) if number else y, h, c))
    y = np.stack([y for y, _, _ in found], axis=1) if stacked else np.concatenate([y for y, _, _ in found], axis=-1)
    states = (np.stack([part[k] for part in found]) for k in (1, 2))
    return (y, *states)[: max(1, len(shapes))]


def _ways(op: ops.Recurrent, inputs: Operands, stacked: bool):
    """Give W, R, b and rb of each direction."""
    for weight, bias in op.parts:
        w, r = inputs[weight], inputs[weight + 1]
        gates = w.shape[-2]
        b = inputs[bias] if bias < len(inputs) else None
        if stacked:
            b = np.zeros((len(w), 2 * gates)) if b is None else b
            yield from ((w[d], r[d], b[d, :gates], b[d, gates:]) for d in range(len(w)))
        else:
            zero = np.zeros(gates)
            yield w, r, zero if b is None else b, zero if b is None else inputs[bias + 1]
