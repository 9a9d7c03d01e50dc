"""Linear operators, y = alpha * W x + beta * b: both frames are free, and the weight and the bias take them up.

Put x = a_x x' + d_x and y = a_y y' + d_y into it, channel by channel:

    W' = alpha * W a_x / a_y        b' = (beta * b + alpha * W d_x - d_y) / a_y
"""

from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Floats, Frames, some
from bnfold.ops import Conv, ConvTranspose, Einsum, Gemm, Linear, MatMul, Op
from bnfold.plan import Edit, ScaleWeight, SetBias
from bnfold.relation import Contracted, Site, Tie
from bnfold.rules.base import frame_of, pinned, rewritten, ties
from bnfold.rules.weights import channels_of, constant_times_shift, scale_weight, weight_factors, weight_times_shift
from bnfold.why import Why

__all__ = ["channels_of", "contraction", "scale_weight", "weight_factors", "weight_times_shift"]

CANCELLED = 16 * np.finfo(np.float64).eps  # of the largest: what float64 leaves where two shifts are equal


def contraction(site: Site) -> Contracted | None:
    """Read the node as a linear operator with a constant weight and bias; None where it is none.

    A tensor of unknown rank has no axis to contract.
    """
    node, found = site.graph.answers.get(site.node.name, (None, None))
    if node is not site.node:
        found = _contraction(site)
        site.graph.answers[site.node.name] = site.node, found
    return found


def _contraction(site: Site) -> Contracted | None:
    computed = {name for name in site.node.inputs if name in site.graph.values}
    if len(computed) > 1 or not site.has_ranks:
        return None
    return contracted_by(site.node.op, site)


@singledispatch
def contracted_by(op: Op, site: Site) -> Contracted | None:
    """Say how an operator contracts its one computed input with its constants; the default: it does not."""
    return None


@contracted_by.register(Conv)
def _conv(op: Conv, site: Site) -> Contracted | None:
    """Zero padding puts zeros where a shifted x would have its shift, so the shift must be 0."""
    if site.constant(1) is None:
        return None
    padded = op.pads is None or any(before or after for before, after in op.pads)
    still = Why.PADDING if padded and op.pad_mode == "zeros" else None
    return Contracted(
        site.x, site.y, site.input(1), site.input(2), 1, 1, 0, 1, op.groups, still=still, passes=((0, 0),)
    )


@contracted_by.register(ConvTranspose)
def _conv_transpose(op: ConvTranspose, site: Site) -> Contracted | None:
    """Each output sees another part of the kernel, so a shift of x is not one number in y."""
    if site.constant(1) is None:
        return None
    return Contracted(
        site.x, site.y, site.input(1), site.input(2), 1, 1, 1, 0, op.groups, still=Why.TRANSPOSED, passes=((0, 0),)
    )


@contracted_by.register(Linear)
def _linear(op: Linear, site: Site) -> Contracted | None:
    if site.constant(1) is None:
        return None
    last = len(site.shape(site.x)) - 1
    passes = tuple((axis, axis) for axis in range(last))
    return Contracted(site.x, site.y, site.input(1), site.input(2), last, last, 0, 1, passes=passes)


@contracted_by.register(Gemm)
def _gemm(op: Gemm, site: Site) -> Contracted | None:
    bias, alpha, beta = site.input(2), op.alpha, op.beta
    if site.constant(1) is not None:
        rows, columns = (1, 0) if op.trans_a else (0, 1)
        out_axis, in_axis = (0, 1) if op.trans_b else (1, 0)
        return Contracted(
            site.x, site.y, site.input(1), bias, columns, 1, out_axis, in_axis, 1, alpha, beta, passes=((rows, 0),)
        )
    if site.constant(0) is not None:
        rows, columns = (1, 0) if op.trans_b else (0, 1)
        out_axis, in_axis = (1, 0) if op.trans_a else (0, 1)
        return Contracted(
            site.input(1), site.y, site.x, bias, rows, 0, out_axis, in_axis, 1, alpha, beta, passes=((columns, 1),)
        )
    return None


@contracted_by.register(MatMul)
def _mat_mul(op: MatMul, site: Site) -> Contracted | None:
    """x W contracts the last axis of x, W x the one before it; a stack of weights adds no shift that is one number."""
    left = site.constant(1) is None
    source, weight = (site.input(1), site.x) if left else (site.x, site.input(1))
    if site.graph.constants.get(weight) is None or source not in site.graph.values:
        return None
    rank, weight_rank, target_rank = len(site.shape(source)), len(site.shape(weight)), len(site.shape(site.y))
    if weight_rank < 2:
        return None
    source_axis = max(rank - 2, 0) if left else rank - 1
    target_axis = target_rank - (2 if left and rank > 1 else 1)
    out_axis, in_axis = (weight_rank - 2, weight_rank - 1) if left else (weight_rank - 1, weight_rank - 2)
    still = Why.AXIS if any(size != 1 for size in site.shape(weight)[:-2]) else None
    passes = tuple(
        (axis, axis + target_rank - rank)
        for axis in range(rank)
        if axis != source_axis and site.shape(source)[axis] == site.shape(site.y)[axis + target_rank - rank]
    )
    return Contracted(
        source, site.y, weight, site.input(2), source_axis, target_axis, out_axis, in_axis, still=still, passes=passes
    )


def _ties(op: Op, site: Site) -> tuple[Tie, ...]:
    found = contraction(site)
    if found is not None:
        return (found,)
    computed = sum(name in site.graph.values for name in site.node.inputs) > 1
    return pinned(site, Why.COMPUTED if computed else Why.AXIS)


def _rewritten(op: Op, site: Site, frames: Frames) -> tuple[Edit, ...]:
    found = contraction(site)
    if found is None or _pass_by(found, frames):
        return ()
    weight = site.graph.constants[found.weight]
    inputs, outputs = channels_of(found, weight.shape)
    before = frame_of(frames, found.source, found.source_axis, inputs)
    after = frame_of(frames, found.target, found.target_axis, outputs)
    scaled, moved = some(after.scale != 1) or some(before.scale != 1), some(before.shift)
    if not (scaled or moved or some(after.shift)):
        return ()  # a NaN isn't what it was, and is no edit
    edits: list[Edit] = []
    if scaled:
        edits.append(ScaleWeight(site.node.name, 1 / after.scale, before.scale))
    added = 0.0 - after.shift
    if moved:
        spread = found.alpha * constant_times_shift(found, weight, before.shift)
        added = spread - after.shift
        if not found.bias:  # what is left of two equal shifts is no bias
            added = np.where(is_rounding(added, spread), 0.0, added)
    bias = _bias(site, found, after.scale, added)
    if bias is not None:
        edits.append(SetBias(site.node.name, bias))
    return tuple(edits)


def is_rounding(difference: Floats, spread: Floats) -> NDArray[np.bool_]:
    """Mark the channels in which what an operator hands on and the shift of its output are the same number."""
    same: NDArray[np.bool_] = np.abs(difference) <= CANCELLED * np.max(np.abs(spread), initial=0)
    return same


def _bias(site: Site, found: Contracted, scale: Floats, added: Floats) -> Floats | None:
    """(beta * b + added) / scale along the target's channels; None where that is what the node has already."""
    place = bias_shape(site, found)
    old = bias_of(site, found)
    new: Floats = (old + added.reshape(place)) / scale.reshape(place)
    return new if some(new != old) else None


def bias_of(site: Site, found: Contracted) -> Floats:
    """Load what is added to W x: beta * b, as the node stores it; a zero where there is no bias."""
    return found.beta * site.graph.constants[found.bias].load() if found.bias else np.zeros(1)


def bias_shape(site: Site, found: Contracted) -> tuple[int, ...]:
    """Shape what varies along the target's channels as a bias (-1 stands for them).

    A convolution's bias has no axes but the channels'; any other operator's is broadcast against its output.
    """
    if isinstance(site.node.op, (Conv, ConvTranspose)):
        return (-1,)
    return (-1, *(1,) * (len(site.shape(found.target)) - 1 - found.target_axis))


def _pass_by(found: Contracted, frames: Frames) -> bool:
    """Whether the frames lie along an axis that the weight does not touch: no constant changes."""
    frame = frames.get(found.source)
    return frame is not None and not frame.is_identity and frame.axis != found.source_axis


for _op in (Conv, ConvTranspose, Linear, Gemm, MatMul, Einsum):
    ties.register(_op, _ties)
    rewritten.register(_op, _rewritten)
