"""The arithmetic of a linear operator's weight, on plain arrays."""

import numpy as np

from bnfold.affine import Floats
from bnfold.graph import Constant
from bnfold.relation import Contracted


def channels_of(contracted: Contracted, shape: tuple[int, ...]) -> tuple[int, int]:
    """Count the input and output channels that a weight of this shape connects: (in, out)."""
    inputs, outputs = shape[contracted.in_axis], shape[contracted.out_axis]
    if contracted.out_axis > contracted.in_axis:
        return inputs, outputs * contracted.groups
    return inputs * contracted.groups, outputs


def weight_factors(
    contracted: Contracted, shape: tuple[int, ...], out_factor: Floats, in_factor: Floats
) -> tuple[Floats, Floats]:
    """Shape the factors, (out,) and (in,), so that they broadcast against a weight of `shape`, or rows of it.

    With groups, axis 0 of the weight counts all the channels of one side and axis 1 those of one group of the other:
    row r belongs to group r // (rows / groups), and its columns are that group's channels.
    """
    if contracted.groups == 1:
        return _along(out_factor, contracted.out_axis, shape), _along(in_factor, contracted.in_axis, shape)
    rows, columns = shape[:2]
    transposed = contracted.in_axis == 0
    full, short = (in_factor, out_factor) if transposed else (out_factor, in_factor)
    group = np.arange(rows) // (rows // contracted.groups)
    ones = (1,) * (len(shape) - 2)
    by_row = full.reshape(rows, 1, *ones)
    by_column = short.reshape(contracted.groups, columns)[group].reshape(rows, columns, *ones)
    return (by_column, by_row) if transposed else (by_row, by_column)


def scale_weight(contracted: Contracted, weight: Floats, out_factor: Floats, in_factor: Floats) -> Floats:
    """W'[o, i, ...] = W[o, i, ...] * out_factor[o] * in_factor[i], in the weight's own layout.

    weight: float64; out_factor: (out,); in_factor: (in,).
    """
    by_output, by_input = weight_factors(contracted, weight.shape, out_factor, in_factor)
    scaled: Floats = weight * by_output * by_input
    return scaled


def weight_times_shift(contracted: Contracted, weight: Floats, shift: Floats) -> Floats:
    """Sum W[o, i, ...] * shift[i] over the input channels and the kernel: what a constant input adds to the output.

    shift: (in,); gives (out,).
    """
    if contracted.groups == 1:
        by_channel = np.moveaxis(weight, (contracted.out_axis, contracted.in_axis), (0, 1))
        summed: Floats = by_channel.sum(axis=tuple(range(2, weight.ndim))) @ shift
        return summed
    rows, columns = weight.shape[:2]
    kernels = weight.reshape(contracted.groups, rows // contracted.groups, columns, -1).sum(axis=-1)
    by_group = shift.reshape(contracted.groups, -1)
    subscripts = "grc,gr->gc" if contracted.in_axis == 0 else "grc,gc->gr"
    per_group: Floats = np.einsum(subscripts, kernels, by_group)
    return per_group.reshape(-1)


def constant_times_shift(contracted: Contracted, weight: Constant, shift: Floats) -> Floats:
    """weight_times_shift of a weight that is read slab by slab."""
    total = np.zeros(channels_of(contracted, weight.shape)[1])
    for rows, slab in weight.slabs():
        if contracted.groups > 1:
            _add_groups(total, contracted, rows, slab, weight.shape[0], shift)
        elif contracted.out_axis == 0:
            total[rows] += weight_times_shift(contracted, slab, shift)
        else:  # axis 0 holds the inputs, or is the one of a stack of a single weight
            total += weight_times_shift(contracted, slab, shift[rows] if contracted.in_axis == 0 else shift)
    return total


def _add_groups(total: Floats, contracted: Contracted, rows: slice, slab: Floats, count: int, shift: Floats) -> None:
    """Add what some of the `count` rows of a grouped weight contribute; row r is of group r // (count / groups)."""
    columns = slab.shape[1]
    group = np.arange(count)[rows] // (count // contracted.groups)
    kernels = slab.reshape(*slab.shape[:2], -1).sum(axis=-1)
    if contracted.in_axis == 0:
        np.add.at(total.reshape(contracted.groups, columns), group, kernels * shift[rows, None])
    else:
        total[rows] += (kernels * shift.reshape(contracted.groups, columns)[group]).sum(axis=1)


def _along(factor: Floats, axis: int, shape: tuple[int, ...]) -> Floats:
    place = [1] * len(shape)
    place[axis] = len(factor)
    return factor.reshape(place)
