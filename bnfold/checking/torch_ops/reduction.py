"""Reductions over axes, arg-max and its kin, sorting, cumulative sums."""

from collections.abc import Callable

import torch
from torch import Tensor

from bnfold.checking.torch_ops.registry import Node, integers, operator

_Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, _Reduce] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


@operator(*_REDUCTIONS)
def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Over axes that are an attribute or an input; all of them where none is given."""
    listed = integers(axes) or list(node.get("axes") or [])
    if not listed:
        if node.whole("noop_with_empty_axes", 0):
            return x
        listed = list(range(x.ndim))
    if not listed:  # a scalar
        return x
    return _REDUCTIONS[node.operator](x, tuple(axis % x.ndim for axis in listed), bool(node.whole("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def arg_max(node: Node, x: Tensor) -> Tensor:
    """The first index of the extreme, or the last where `select_last_index`."""
    axis, keep = node.whole("axis", 0), bool(node.whole("keepdims", 1))
    find = torch.argmax if node.operator == "ArgMax" else torch.argmin
    if node.whole("select_last_index", 0):
        return torch.as_tensor(x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=keep))
    return find(x, axis, keepdim=keep)


@operator("TopK")
def top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) along an axis, sorted; the lower index first among equals."""
    count = int(node.get("k") if k is None else k.item())
    axis = node.whole("axis", -1)
    values, indices = torch.sort(x, dim=axis, descending=bool(node.whole("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@operator("CumSum")
def cum_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Running sum, from either end, with or without the element itself."""
    dim = int(axis.item())
    x = x.flip(dim) if node.whole("reverse", 0) else x
    y = x.cumsum(dim, dtype=x.dtype)
    y = y - x if node.whole("exclusive", 0) else y
    return y.flip(dim) if node.whole("reverse", 0) else y
