"""Where the living tensors of a run come from, and which of them show the same memory."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Origin:
    """What is known of a tensor.

    number: of its own; a tensor that was written to in place gets another one. memory: a number for what it shows.
    version: as it was when it was last seen.
    """

    tensor: "weakref.ref[Tensor]"
    label: str
    number: int
    memory: int
    storage: int
    is_weight: bool
    version: int


class Origins:
    """Origins by tensor. No tensor is kept alive: a run would else hold everything that it computes."""

    def __init__(self) -> None:
        self._by_id: dict[int, Origin] = {}
        self._sharing: dict[int, list[Origin]] = {}
        self._lasting: dict[int, int] = {}  # by storage that outlives the run: the memory
        self._count = 0

    def of(self, tensor: Tensor) -> Origin | None:
        """Give what is known of a tensor; an id is used again once its owner is gone."""
        found = self._by_id.get(id(tensor))
        return found if found is not None and found.tensor() is tensor else None

    def keep(self, tensor: Tensor, label: str, *, is_weight: bool = False) -> Origin:
        """Take in a tensor that outlives the run."""
        origin = self.add(tensor, label, (), is_weight=is_weight)
        self._lasting[origin.storage] = origin.memory
        return origin

    def add(self, tensor: Tensor, label: str, near: Iterable[Origin], *, is_weight: bool = False) -> Origin:
        """Take in what a call gave. near: what it was given, whose memory it may show; any other memory is new."""
        storage = _storage(tensor)
        memory = self._lasting.get(storage)
        if memory is None:
            memory = next((origin.memory for origin in near if origin.storage == storage), self._count)
        origin = Origin(weakref.ref(tensor), label, self._count, memory, storage, is_weight, version_of(tensor))
        self._count += 1
        self._by_id[id(tensor)] = origin
        self._sharing.setdefault(memory, []).append(origin)
        return origin

    def written(self, memory: int) -> None:
        """Take note that a call wrote to a memory: every tensor that shows it has another version now."""
        living = [(origin, origin.tensor()) for origin in self._sharing.get(memory, ())]
        self._sharing[memory] = [origin for origin, tensor in living if tensor is not None]
        for origin, tensor in living:
            if tensor is not None:
                origin.version = version_of(tensor)


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to in place."""
    return 0 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int:
    if not torch._C._has_storage(tensor):  # sparse, opaque, or inside of a transform
        return id(tensor)
    storage: int = tensor.untyped_storage()._cdata
    return storage
