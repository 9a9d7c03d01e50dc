"""Gathers, scatters and what else reads or writes by index."""

import torch
from torch import Tensor

from bnfold.checking.torch_ops.registry import Node, operator


def _wrapped(index: Tensor, size: int) -> Tensor:
    """Indices as int64, counted from the front."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


@operator("Gather")
def gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """x[..., index, ...] on one axis; the index's axes take its place."""
    axis = node.whole("axis", 0) % x.ndim
    flat = x.index_select(axis, _wrapped(index, x.shape[axis]).reshape(-1))
    return flat.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


@operator("GatherElements")
def gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """One element for each index, along an axis."""
    axis = node.whole("axis", 0) % x.ndim
    return x.gather(axis, _wrapped(index, x.shape[axis]))


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """Slices at coordinates that lie on the index's last axis, behind `batch_dims` common axes."""
    batch = node.whole("batch_dims", 0)
    common = x.shape[:batch]
    rows, places = x.reshape(-1, *x.shape[batch:]), index.reshape(-1, *index.shape[batch:]).long()
    parts = [row[tuple(place.movedim(-1, 0))] for row, place in zip(rows, places, strict=True)]
    return torch.stack(parts).reshape((*common, *parts[0].shape))


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """One element written for each index, along an axis."""
    axis = node.whole("axis", 0) % x.ndim
    index = _wrapped(index, x.shape[axis])
    how = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}.get(node.get("reduction", "none"))
    if how is None:
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, how, include_self=True)


@operator("ScatterND")
def scatter_nd(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Slices written at coordinates that lie on the index's last axis."""
    depth = index.shape[-1]
    sizes = torch.tensor(x.shape[:depth])
    place = _wrapped(index.long(), 0) if depth == 0 else torch.where(index < 0, index + sizes, index).long()
    strides = torch.tensor([int(torch.prod(sizes[i + 1 :])) for i in range(depth)])
    rows = (place * strides).sum(-1).reshape(-1)
    flat = x.reshape(int(torch.prod(sizes)), -1)
    new = updates.reshape(rows.numel(), -1)
    how = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}.get(node.get("reduction", "none"))
    if how is None:
        return flat.index_copy(0, rows, new).reshape(x.shape)
    spread = rows[:, None].expand(-1, flat.shape[1])
    return flat.scatter_reduce(0, spread, new, how, include_self=True).reshape(x.shape)


@operator("OneHot")
def one_hot(node: Node, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """values[1] at each index along a new axis, values[0] elsewhere."""
    size, axis = int(depth.item()), node.whole("axis", -1)
    axis = axis % (index.ndim + 1)
    hot = _wrapped(index, size).unsqueeze(axis) == torch.arange(size).reshape(-1, *[1] * (index.ndim - axis))
    return torch.where(hot, values[1], values[0])


@operator("NonZero")
def non_zero(node: Node, x: Tensor) -> Tensor:
    """Coordinates of what is not zero, one column each."""
    return x.nonzero().T


@operator("Compress")
def compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    """What the condition picks along an axis, or of all elements."""
    axis = node.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis % x.ndim)
    return x.index_select(axis, condition.bool().nonzero().reshape(-1))
