"""What functions give on tensors without numbers, each asked once for operands of the same shapes."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_PLAIN = frozenset({int, float, str, bool, type(None), torch.dtype, torch.memory_format})
_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_UNPACKED = 9  # operands: x, states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
_TOLD_BY = 2  # steps; of one, the strides tell no order
_ATOMS = _PLAIN | {Tensor, nn.Parameter}


class KnownShapes:
    """A memory of functions on the meta device: a network is the same few layers over and over.

    It keeps a result that is one new tensor, over memory of its own, from operands that were not written to.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = {}

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Make the tensor that the function would give, or ask the function."""
        with torch._C.DisableTorchFunction():
            key = _key(func, args, kwargs)
            if key in self._known:
                shape, stride, dtype = self._known[key]
                return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        if func in _RECURRENT and _is_long(args):
            return _by_two_steps(func, args, kwargs)
        leaves = [] if key is None else leaves_of((*args, *kwargs.values()))
        operands = [item for item in leaves if isinstance(item, Tensor)]
        versions = [item._version for item in operands]
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if operands and _is_new(result, operands) and [item._version for item in operands] == versions:
                self._known[key] = (tuple(result.shape), result.stride(), result.dtype)
        return result


def _is_long(args: Sequence[Any]) -> bool:
    """Whether they are sequences of one length, and not packed ones, of more steps than tell the shapes."""
    return len(args) == _UNPACKED and args[0].dim() == 3 and args[0].shape[_steps(args)] > _TOLD_BY


def _steps(args: Sequence[Any]) -> int:
    return 1 if args[-1] else 0  # batch_first


def _by_two_steps(func: Any, args: Sequence[Any], kwargs: Any) -> tuple[Any, ...]:
    """Ask for two steps, and take what comes out for all of them: without numbers, torch runs them one by one."""
    axis = _steps(args)
    y, *states = func(args[0].narrow(axis, 0, _TOLD_BY), *args[1:], **kwargs)
    with torch._C.DisableTorchFunction():
        shape = [args[0].shape[axis] if i == axis else size for i, size in enumerate(y.shape)]
        order = sorted(range(y.dim()), key=lambda i: (y.stride(i), i == axis), reverse=True)
        return torch.empty_permuted(shape, order, dtype=y.dtype, device="meta"), *states


def leaves_of(items: Iterable[Any]) -> list[Any]:
    """Give what pytree.tree_leaves gives of arguments or of a result, most of which hold at most numbers in tuples."""
    found: list[Any] = []
    for item in items:
        if type(item) in _ATOMS:
            found.append(item)
        elif type(item) in (tuple, list):
            found += leaves_of(item)
        else:
            found += pytree.tree_leaves(item)
    return found


def _key(func: Any, args: Any, kwargs: Any) -> Hashable | None:
    """Tell calls apart; None for what isn't a function of plain tensors and numbers."""
    parts = [_part(item) for item in (*args, *kwargs.values())]
    return None if None in parts else (func, *kwargs, *parts)


def _part(item: Any) -> Hashable | None:
    kind = type(item)
    if kind in (Tensor, nn.Parameter):
        plain = item.device.type == "meta" and item.layout is torch.strided
        return (item.shape, item.stride(), item.dtype, item.requires_grad) if plain else None
    if kind in (tuple, list):
        parts = [_part(part) for part in item]
        return None if None in parts else (kind, *parts)
    return (kind, item) if kind in _PLAIN else None


def _is_new(result: Any, operands: Sequence[Tensor]) -> bool:
    """Whether it is one plain tensor over memory of its own."""
    if type(result) is not Tensor or result.device.type != "meta" or result.layout is not torch.strided:
        return False
    memory = result.untyped_storage()._cdata
    return all(memory != item.untyped_storage()._cdata for item in operands)
