"""Many layers at once: what is asked of every channel by itself is asked of the channels of all layers in a row.

Tensors with frames along other axes
than the channels' are for a look at each layer by itself.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from bnfold import ops
from bnfold.affine import Chain, Chains, Floats, some
from bnfold.auditing.affines import axis_of, identity_error, line_of, parameters
from bnfold.auditing.frames import Seen, Term
from bnfold.batches import in_rows
from bnfold.graph import Graph, Node

Ends: TypeAlias = tuple[Floats, Floats]  # scale and shift of a tensor's channels


def are_identities(nodes: Sequence[Node], graph: Graph, frames: Chains, tolerance: float) -> bool:
    """Whether BatchNorms are the identity between their frames; False where one isn't, or where that isn't sure.

    A channel whose frame has scale 0 says nothing of the tensor before; it is left out.
    """
    layers: list[tuple[Floats, ...]] = []
    for node in nodes:
        if not isinstance(node.op, ops.BatchNorm):
            return False
        own = parameters(node, graph)
        channels = len(own[2])
        x, y = (_along(frames.get(name, ()), axis_of(node), channels) for name in (node.inputs[0], node.output))
        if x is None or y is None:
            return False
        layers.append((*own, np.full(channels, node.op.eps), *x, *y))
    return all(_is_identity(columns, tolerance) for _, columns in in_rows(layers))


def _is_identity(columns: Sequence[Floats], tolerance: float) -> bool:
    own = line_of(*columns[:5])
    scale_x, shift_x, scale_y, shift_y = columns[5:]
    wrong = identity_error(own, _seen(scale_x, shift_x), _seen(scale_y, shift_y)) > tolerance
    return not some(wrong) or not some(wrong & (scale_x != 0) & (scale_y != 0) & (own.slope != 0))


class PlainBiases:
    """Biases of layers into which no shift comes: b' = (b - d_y) / a_y."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._parts: list[tuple[Floats, ...]] = []

    def add(self, name: str, before: Floats, now: Floats, y: Seen) -> bool:
        """Take the bias of a layer. False where it, or the frame behind, isn't one number for each channel."""
        channels = len(y.scale)
        if y.elsewhere or len(y.shifts) > 1 or any(term.elsewhere for term in y.shifts):
            return False
        if {before.size, now.size} - {1, channels}:
            return False
        shift = y.shifts[0].channels if y.shifts else np.zeros(channels)
        old, new = (bias.reshape(-1) if bias.size == channels else np.full(channels, bias) for bias in (before, now))
        self._names.append(name)
        self._parts.append((old, new, y.alive().scale, shift))
        return True

    def wrong(self, tolerance: float) -> str:
        """Name the first layer whose bias isn't so, relative to the terms; empty where there is none."""
        for row, (before, now, scale, shift) in in_rows(self._parts):
            size = np.maximum(np.abs(before), np.abs(shift)) / np.abs(scale)
            apart = np.abs(now - (before - shift) / scale) > tolerance * size
            if some(apart):
                ends = np.cumsum([len(part[0]) for part in self._parts[row]])
                return self._names[row][int(np.searchsorted(ends, np.argmax(apart), side="right"))]
        return ""


def _along(chain: Chain, axis: int, channels: int) -> Ends | None:
    """Give scale and shift along an axis, (C,) each; None where there are frames that say more."""
    if not chain:
        return np.ones(channels), np.zeros(channels)
    frame = chain[0]
    if len(chain) > 1 or frame.axis != axis or frame.channels != channels:
        return None
    return frame.scale, frame.shift


def _seen(scale: Floats, shift: Floats) -> Seen:
    return Seen(scale, {}, (Term(shift, {}, np.abs(shift)),))
