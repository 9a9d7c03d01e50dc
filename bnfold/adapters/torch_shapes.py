"""What functions give on tensors without numbers, each asked once for operands of the same shapes."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_LEAF = (Tensor, int, float, str, type(None))
_PLAIN = (int, float, str, bool, type(None), torch.dtype, torch.memory_format)


class KnownShapes:
    """A memory of functions on the meta device: a network is the same few layers over and over.

    It keeps a result that is one new tensor, over memory of its own, from operands that were not written to.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = {}

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Make the tensor that the function would give, or ask the function."""
        leaves = leaves_of(args, kwargs.values())
        with torch._C.DisableTorchFunction():
            key = _key(func, args, kwargs, leaves)
            if key in self._known:
                shape, stride, dtype = self._known[key]
                return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        operands = [item for item in leaves if isinstance(item, Tensor)] if key is not None else []
        versions = [item._version for item in operands]
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if operands and _is_new(result, operands) and [item._version for item in operands] == versions:
                self._known[key] = (tuple(result.shape), result.stride(), result.dtype)
        return result


def leaves_of(args: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Give what pytree.tree_leaves gives of arguments, which seldom hold lists."""
    items = [*args, *others]
    return pytree.tree_leaves(items) if any(not isinstance(item, _LEAF) for item in items) else items


def _key(func: Any, args: Any, kwargs: Any, leaves: Sequence[Any]) -> Hashable | None:
    """Tell calls apart; None for what isn't a function of plain tensors and numbers."""
    nested = any(isinstance(item, (list, tuple, dict)) for item in (*args, *kwargs.values()))
    parts: list[Hashable] = []
    for item in leaves:
        if type(item) in (Tensor, nn.Parameter) and item.device.type == "meta" and item.layout is torch.strided:
            parts.append((item.shape, item.stride(), item.dtype, item.requires_grad))
        elif isinstance(item, _PLAIN):
            parts.append((type(item), item))
        else:
            return None
    return (func, pytree.tree_structure((args, kwargs)) if nested else None, *kwargs, *parts)


def _is_new(result: Any, operands: Sequence[Tensor]) -> bool:
    """Whether it is one plain tensor over memory of its own."""
    if type(result) is not Tensor or result.device.type != "meta" or result.layout is not torch.strided:
        return False
    memory = result.untyped_storage()._cdata
    return all(memory != item.untyped_storage()._cdata for item in operands)
