"""Operators that move numbers and compute none: shapes, joins, cuts, padding, constants."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnfold.checking.torch_ops.linear import pad as pad_constant
from bnfold.checking.torch_ops.registry import Node, integers, operator, to_tensor


def constant_tensor(node: Node, array: np.ndarray[Any, Any]) -> Tensor:
    """Turn a constant into a tensor; floats come in the working dtype."""
    value = to_tensor(np.asarray(array))
    return value.to(node.dtype) if value.is_floating_point() else value


@operator("Constant")
def constant(node: Node) -> Tensor:
    """Whichever of its attributes is set."""
    for name in ("value", "sparse_value"):
        if name in node.attributes:
            return constant_tensor(node, node.attributes[name])
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    ((name, value),) = node.attributes.items()
    return constant_tensor(node, np.array(value, kinds[name]))


@operator("ConstantOfShape")
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    """A tensor full of one number; zero by default."""
    value = constant_tensor(node, node.get("value", np.zeros(1, np.float32))).reshape(())
    return value.expand(integers(shape)).clone()


@operator("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    """The sizes of the axes from `start` to `end`."""
    return torch.tensor(list(x.shape)[node.whole("start", 0) : node.get("end")], dtype=torch.int64)


@operator("Size")
def size(node: Node, x: Tensor) -> Tensor:
    """How many elements."""
    return torch.tensor(x.numel())


@operator("Range")
def arange(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """From start towards limit, which is left out."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Reshape")
def reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    """0 copies the input's size (unless `allowzero`), -1 takes the rest."""
    wanted = list(node.get("shape") or []) if shape is None else integers(shape)
    if not node.whole("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(torch.Size(wanted))


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """To two axes, cut before `axis`."""
    axis = node.whole("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    """Axes in the order of `perm`; reversed by default."""
    return x.permute(list(node.get("perm") or reversed(range(x.ndim))))


@operator("Squeeze")
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Drop axes of size one: those named, or all."""
    listed = integers(axes) or list(node.get("axes") or [])
    drop = {axis % x.ndim for axis in listed} if listed else {a for a, size in enumerate(x.shape) if size == 1}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in drop])


@operator("Unsqueeze")
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Insert axes of size one, counted in the result."""
    listed = list(node.get("axes") or []) if axes is None else integers(axes)
    rank = x.ndim + len(listed)
    for axis in sorted(axis % rank for axis in listed):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast both ways."""
    return torch.broadcast_to(x, torch.broadcast_shapes(x.shape, tuple(integers(shape))))  # type: ignore[no-untyped-call]


@operator("Tile")
def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(integers(repeats))


@operator("Concat")
def concat(node: Node, *parts: Tensor) -> Tensor:
    """Join along an axis."""
    return torch.cat(parts, node.whole("axis", 1))


@operator("Split")
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Cut along an axis: by the sizes given, else into as many parts as there are outputs, the last one smaller."""
    axis = node.whole("axis", 0)
    listed = integers(sizes) or list(node.get("split") or [])
    if not listed:
        count = node.get("num_outputs") or len(node.outputs)
        return torch.split(x, math.ceil(x.shape[axis] / count), axis)
    return torch.split(x, listed, axis)


@operator("Slice")
def slice_(node: Node, x: Tensor, *inputs: Tensor | None) -> Tensor:
    """Python's slices, with negative steps; bounds are attributes before opset 10."""
    if node.opset < 10:
        starts, ends, axes, steps = list(node.get("starts")), list(node.get("ends")), list(node.get("axes") or []), []
    else:
        starts, ends, axes, steps = (integers(value) for value in (*inputs, None, None)[:4])
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[i] if axes else i), (steps[i] if steps else 1)
        size = x.shape[axis]
        # Python reads an end of -size - 1 or less as 0; stepping backwards, ONNX means "past the beginning".
        stop = None if step < 0 and end < -size else end
        x = x.index_select(axis, torch.tensor(range(size)[start:stop:step], dtype=torch.int64))
    return x


@operator("Pad")
def pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Constant, reflect, edge or wrap; a negative pad crops. Pads are an attribute before opset 11."""
    listed = integers(pads) if pads is not None else list(node.get("pads") or node.get("paddings"))
    if axes is not None:
        listed = _on_all_axes(listed, [axis % x.ndim for axis in integers(axes)], x.ndim)
    mode = node.get("mode", "constant")
    if mode == "constant":
        return pad_constant(x, listed, node.number("value", 0.0) if value is None else value.item())
    for axis in range(x.ndim):
        begin, end = listed[axis], listed[axis + x.ndim]
        if begin or end:
            x = x.index_select(axis, _padded_index(mode, x.shape[axis], begin, end))
    return x


def _on_all_axes(pads: list[int], axes: list[int], rank: int) -> list[int]:
    whole = [0] * 2 * rank
    for i, axis in enumerate(axes):
        whole[axis], whole[axis + rank] = pads[i], pads[i + len(axes)]
    return whole


def _padded_index(mode: str, size: int, begin: int, end: int) -> Tensor:
    index = torch.arange(-begin, size + end)
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index % size
    period = max(2 * (size - 1), 1)  # reflect: 0 1 2 1 0 1 2 ...
    index = index % period
    return torch.where(index < size, index, period - index)


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Channels to blocks; DCR takes the block from the first of the split axes, CRD from the last."""
    block = node.get("blocksize")
    n, c, h, w = x.shape
    if node.get("mode", "DCR") == "DCR":
        y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Blocks to channels; DCR puts the block's axes first, CRD last."""
    block = node.get("blocksize")
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block)
    y = y.permute(0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else y.permute(0, 1, 3, 5, 2, 4)
    return y.reshape(n, c * block**2, h // block, w // block)


@operator("Trilu")
def trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """Upper or lower triangle."""
    diagonal = 0 if k is None else int(k.item())
    return x.triu(diagonal) if node.whole("upper", 1) else x.tril(diagonal)


@operator("EyeLike")
def eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = x.shape
    return torch.diag_embed(torch.ones(max(rows, columns) + abs(node.whole("k", 0))), node.whole("k", 0)).to(x.dtype)[
        :rows, :columns
    ]
