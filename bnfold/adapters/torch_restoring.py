"""A module as it was before it ran: attributes, what is in its lists and dicts, and the numbers of its tensors."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = frozenset({list, dict, set})
_SMALL = 1 << 14  # elements of a parameter: a forward may clamp a learned temperature, and rewrites no whole layer


@dataclass
class Changes:
    """Whether a run of a module changed anything of it; known once it is put back."""

    found: bool = False


@contextlib.contextmanager
def unchanged(module: nn.Module, *, numbers: bool = True) -> Iterator[Changes]:
    """Put back what running the module changes, of itself and its submodules.

    Every attribute that it sets; what it puts into or takes out of lists, dicts and sets; and the numbers of buffers,
    of other tensors and of small parameters that it writes to. numbers=False: where it doesn't run on these tensors.
    """
    places = [(place, dict(place), _ids(place)) for place in holders(module)]
    own = {id(place) for place, *_ in places}
    items = [item for _, attributes, _ in places for item in attributes.values()]
    holding = [item for item in items if type(item) in _CONTAINERS and id(item) not in own]
    contents = [(item, type(item)(item)) for item in holding]
    tensors = {id(item): item for item in items if _may_be_written(item)} if numbers else {}
    copies = [(item, item.detach().clone()) for item in tensors.values()]
    changes = Changes()
    try:
        yield changes
    finally:
        with torch.no_grad():
            put_back = [_put_back(item, old) for item, old in copies]
        refilled = [_refill(item, old) for item, old in contents]
        changes.found = any(put_back) or any(refilled)
        for place, attributes, ids in places:
            if place.keys() != attributes.keys() or _ids(place) != ids:
                changes.found = True
                place.clear()
                place.update(attributes)


def _ids(place: dict[str, Any]) -> list[int]:
    return list(map(id, place.values()))


def holders(module: nn.Module) -> list[dict[str, Any]]:
    """The dicts that hold a module's parameters, buffers, children and attributes, and those of its submodules."""
    return [
        place for part in module.modules() for place in (part._parameters, part._buffers, part._modules, vars(part))
    ]


def _may_be_written(item: Any) -> bool:
    """Whether it is a tensor that a forward might count, average or clamp in."""
    if not isinstance(item, Tensor) or item.is_inference() or not torch._C._has_storage(item):
        return False
    return not isinstance(item, nn.Parameter) or item.numel() <= _SMALL


def _put_back(item: Tensor, old: Tensor) -> bool:
    """Compare the numbers, for `.data` leaves no trace in the version; gives whether they differ."""
    if item.shape != old.shape or item.dtype != old.dtype:
        item.data = old
        return True
    if torch.equal(item, old):
        return False
    item.copy_(old)
    return True


def _refill(item: Any, old: Any) -> bool:
    """Give a container the very items that it had; and whether it had others."""
    same = len(item) == len(old) and all(one is other for one, other in zip(item, old, strict=True))
    if same and (not isinstance(item, dict) or all(item[key] is old[key] for key in old)):
        return False
    item.clear()
    if isinstance(item, list):
        item.extend(old)
    else:
        item.update(old)
    return True
