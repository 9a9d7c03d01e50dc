"""What a node of an exported graph does with memory, and what it gives."""

from typing import Any

import torch
from torch import Tensor, fx

from bnfold.adapters.torch_call import is_tensor

_METADATA_ONLY = ("sym_size", "sym_numel", "sym_stride", "_assert", "_local_scalar", "is_same_size", "size")


def storage(item: object) -> int | None:
    """Tell which memory a tensor shows; None for what isn't one tensor, or has none (inside of vmap, sparse)."""
    if not is_tensor(item) or not torch._C._has_storage(item.meta["val"]):  # type: ignore[attr-defined]
        return None
    tensor: Tensor = item.meta["val"]  # type: ignore[attr-defined]
    memory: int = tensor.untyped_storage()._cdata
    return memory


def same_view(left: fx.Node, right: fx.Node) -> bool:
    """Whether two tensors over one memory show the same of it."""
    first, second = left.meta["val"], right.meta["val"]
    return bool(
        first.shape == second.shape
        and first.stride() == second.stride()
        and first.storage_offset() == second.storage_offset()
    )


def any_tensor(item: fx.Node) -> bool:
    """Whether a node gives a tensor, or several."""
    value = item.meta.get("val")
    return isinstance(value, (Tensor, list, tuple))


def gives_nothing(node: fx.Node) -> bool:
    """Whether a node has no result."""
    return node.meta.get("val") is None


def acts(node: fx.Node) -> bool:
    """Whether a node does something, whoever reads it: what gives nothing asserts, though fx may take it for pure."""
    return node.is_impure() or (isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns)


def is_metadata(node: fx.Node) -> bool:
    """Whether a node computes with shapes, or asserts one, and gives no tensor."""
    name = getattr(node.target, "__name__", str(node.target))
    numbers = isinstance(node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat, torch.SymBool))
    return numbers or (not any_tensor(node) and name.startswith(_METADATA_ONLY))


def changes_first(node: fx.Node) -> bool:
    """Whether an operator writes to its first argument (detach_ changes no numbers)."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not node.args or target is torch.ops.aten.detach_.default:
        return False
    first = target._schema.arguments[0]
    return first.alias_info is not None and first.alias_info.is_write


def functional(target: Any) -> Any:
    """Give the operator without the trailing underscore; the operator itself where there is none."""
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, target)
