"""Slices among the arguments of a call, with the lengths of the axes that they are taken from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A slice of an axis. bounds: start, stop and step. length: of the axis."""

    bounds: tuple[Any, Any, Any]
    axis: int
    length: int


def parts_in(args: Sequence[Any]) -> Sequence[Any]:
    """Put a `Part` in the place of each slice that a tensor is indexed with."""
    if len(args) < 2 or not isinstance(args[0], Tensor):
        return args
    index = args[1] if type(args[1]) is tuple else (args[1],)
    if not any(type(item) is slice for item in index):
        return args
    axes, shape = [_axes(item) for item in index], args[0].shape
    rest = len(shape) - sum(axes)
    axis, parts = 0, []
    for item, count in zip(index, axes, strict=True):
        parts.append(Part((item.start, item.stop, item.step), axis, shape[axis]) if type(item) is slice else item)
        axis += rest if item is Ellipsis else count
    return (args[0], tuple(parts), *args[2:])


def _axes(item: Any) -> int:
    """How many axes an index is for; an ellipsis stands for the rest."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype is torch.bool else 1
