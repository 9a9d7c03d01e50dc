"""Reading layout operators."""

import math

from bnfold import ops
from bnfold.adapters.onnx_view import MisreadError, Part, Reading, View, reads
from bnfold.graph import CHANNELS


@reads("Transpose")
def _transpose(view: View) -> Reading:
    rank = view.rank()
    if rank is None:
        return None
    permutation = view.numbers("perm") or tuple(reversed(range(rank)))
    if sorted(permutation) != list(range(rank)):
        raise MisreadError(f"{view.node.name}: permutation {permutation} of {rank} axes")
    return ops.Transpose(permutation)


@reads("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(view: View) -> Reading:
    return Part(ops.Reshape(), view.node.inputs[:1])


@reads("Expand")
def _expand(view: View) -> Reading:
    return Part(ops.Expand(), view.node.inputs[:1], view.data_limits())


@reads("Tile")
def _tile(view: View) -> Reading:
    repeats, rank = view.ints(1), view.rank()
    if repeats is None or len(repeats) != rank or min(repeats, default=1) < 1:
        return None
    return Part(ops.Tile(repeats), view.node.inputs[:1])


@reads("Slice")
def _slice(view: View) -> Reading:
    """One Take for each axis of known size; a crop of others keeps the rest, as a Resize does."""
    starts, ends = view.ints(1, "starts"), view.ints(2, "ends")
    shape = view.shape()
    if starts is None or ends is None or shape is None:
        return None
    axes = view.ints(3, "axes") or tuple(range(len(starts)))
    steps = view.ints(4) if view.input(4) else (1,) * len(starts)
    if (view.input(3) and view.ints(3) is None) or steps is None or len(axes) != len(starts):
        return None
    parts = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = view.axis(axis)
        if place is None or step == 0:
            return None
        size = shape[place]
        if not isinstance(size, int) or size > CHANNELS:
            return _crop(view, axes)
        indices = tuple(range(*slice(start, end, step).indices(size)))
        if indices != tuple(range(size)):
            parts.append(Part(ops.Take(place, indices), view.node.inputs[:1]))
    return parts or Part(ops.Identity(), view.node.inputs[:1])


def _crop(view: View, axes: tuple[int, ...]) -> Reading:
    """Each number of y is one of x; what stands where along the cropped axes doesn't matter to the others."""
    places = [view.axis(axis) for axis in axes]
    moved = tuple(place for place in places if place is not None)
    if view.shape_of_output() is None or len(moved) < len(places):
        return None
    return Part(ops.Resize(affine=True, moved=moved), view.node.inputs[:1])


@reads("Gather")
def _gather(view: View) -> Reading:
    axis, shape, indices = view.axis(view.number("axis")), view.shape(), view.ints(1)
    if axis == 0 and indices is None and view.constant(0) is not None and view.rank(1) is not None:
        return Part(ops.Lookup(), limits=view.data_limits())
    if axis is None or shape is None or indices is None:
        return None
    size = shape[axis]
    if not isinstance(size, int):
        return None
    rank = view.rank(1)
    if rank == 0:
        return Part(ops.Select(axis, indices[0] % size), view.node.inputs[:1])
    if rank == 1:
        return Part(ops.Take(axis, tuple(index % size for index in indices)), view.node.inputs[:1])
    return None


@reads("Split")
def _split(view: View) -> Reading:
    """The sizes are an attribute up to opset 12 and an operand from 13 on; none means equal parts, the last shorter."""
    axis, shape = view.axis(view.number("axis")), view.shape()
    if axis is None or shape is None:
        return None
    sizes, size = view.ints(1, "split"), shape[axis]
    if sizes is None:
        if view.input(1) or not isinstance(size, int):
            return None
        count = len(view.node.outputs)
        step = math.ceil(size / count)
        sizes = (*(step,) * (count - 1), size - step * (count - 1))
    if isinstance(size, int) and sum(sizes) != size:
        raise MisreadError(f"{view.node.name}: parts of {sizes} of an axis of {size}")
    if len(sizes) != len(view.node.outputs) or min(sizes) < 0 or sum(sizes) > CHANNELS:
        return None
    return Part(ops.Split(axis, sizes), view.node.inputs[:1])


@reads("Concat")
def _concat(view: View) -> Reading:
    shape = view.shape_of_output()
    if shape is None:
        return None
    return Part(ops.Concat(view.number("axis") % len(shape)), limits=view.data_limits())


@reads("DepthToSpace")
def _depth_to_space(view: View) -> Reading:
    return ops.DepthToSpace(view.number("blocksize", 1), view.text("mode", "DCR"))


@reads("SpaceToDepth")
def _space_to_depth(view: View) -> Reading:
    return ops.SpaceToDepth(view.number("blocksize", 1), "DCR")


@reads("Shape", "Size")
def _shape(view: View) -> Reading:
    return ops.ShapeOf()
