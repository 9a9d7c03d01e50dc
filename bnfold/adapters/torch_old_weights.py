"""The old numbers of weights that a fold in place writes over: most of them lie in a file, not in memory."""

import ctypes
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import FileIO
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from bnfold.adapters.torch_read_constants import as_float64, name_of
from bnfold.affine import Floats
from bnfold.graph import Constant, stretches

HELD = 16 << 20  # bytes that stay in memory, so that small models never touch the disk
TRIMMED = 16 << 20  # bytes that are given up between two times that the heap is trimmed

_count = getattr(torch._C, "_storage_Use_Count", None)  # without it, all stay in memory


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Numbers that stay where they are; the tensor gets another memory."""

    tensor: Tensor
    before: Tensor

    def rows(self, start: int, stop: int) -> Tensor:
        return self.before[start:stop]

    def put_back(self) -> None:
        self.tensor.data = self.before


@dataclass(frozen=True, slots=True, eq=False)
class _Filed:
    """Numbers in a file, row after row. address: of the memory that they had. is_over: it takes the new numbers."""

    tensor: Tensor
    file: FileIO
    place: int
    address: int
    is_over: bool

    def rows(self, start: int, stop: int) -> Tensor:
        width = self.tensor.nbytes // len(self.tensor)
        found = np.empty((stop - start) * width, np.uint8)
        self.file.seek(self.place + start * width)
        _read(self.file, found.data)
        return torch.from_numpy(found).view(self.tensor.dtype).view(stop - start, *self.tensor.shape[1:])

    def put_back(self) -> None:
        if self.is_over or self.tensor.data_ptr() != self.address:
            for rows in stretches(tuple(self.tensor.shape)):
                self.tensor.data[rows].copy_(self.rows(rows.start, rows.stop))


_Old: TypeAlias = _Held | _Filed


class OldWeights:
    """What parameters were before they got other numbers.

    Numbers that nobody else holds lie in a temporary file without a name, which goes with this object.
    """

    def __init__(self) -> None:
        self._old: dict[int, _Old] = {}
        self._held = 0
        self._given_up = 0
        self._file: FileIO | None = None
        self._end = 0

    def room(self, tensor: Tensor) -> Tensor:
        """Give the memory for a parameter's new numbers: its own, once the old ones are saved, or another.

        The caller fills it and sets `tensor.data` to it; where that fails, `put_back` has to follow.
        """
        if id(tensor) in self._old:
            return _fresh(tensor)
        if self._given_up > TRIMMED:
            self._given_up = 0
            _trim()
        filed = self._filed(tensor) if type(tensor) is nn.Parameter and _is_alone(tensor) else None
        self._old[id(tensor)] = filed or _Held(tensor, tensor.data)
        if filed is None or not filed.is_over:
            self._given_up += 0 if filed is None else tensor.nbytes
            return _fresh(tensor)
        return tensor.data

    def __len__(self) -> int:
        return len(self._old)

    def put_back(self, count: int = 0) -> None:
        """Give all parameters but the first `count` their old numbers."""
        with torch.no_grad():
            while len(self._old) > count:
                last = next(reversed(self._old))
                self._old[last].put_back()
                del self._old[last]

    def constant(self, name: str, tensor: Tensor) -> Constant:
        """Give the old numbers, whenever they are read."""
        shape = tuple(tensor.shape)
        rows = partial(self._rows, tensor) if shape else None
        return Constant(name, shape, name_of(tensor.dtype), partial(self._all, tensor), rows)

    def _rows(self, tensor: Tensor, start: int, stop: int) -> Floats:
        old = self._old.get(id(tensor))
        return as_float64(tensor[start:stop] if old is None else old.rows(start, stop))

    def _all(self, tensor: Tensor) -> Floats:
        if tensor.ndim:
            return self._rows(tensor, 0, len(tensor))
        old = self._old.get(id(tensor))
        return as_float64(old.before if isinstance(old, _Held) else tensor)

    def _filed(self, tensor: Tensor) -> _Filed | None:
        """Save numbers; None for the first few, and where there is no file for them."""
        self._held += tensor.nbytes
        if self._held <= HELD:
            return None
        try:
            file = self._opened()
            file.seek(self._end)
            for part in _bytes_of(tensor):
                _write(file, part)
        except OSError:  # nowhere to put a file, or a full disk: memory serves too
            return None
        self._held -= tensor.nbytes
        filed = _Filed(tensor, file, self._end, tensor.data_ptr(), tensor.untyped_storage().resizable())
        self._end += tensor.nbytes
        return filed

    def _opened(self) -> FileIO:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="bnfold-", buffering=0)  # noqa: SIM115 - it outlives the call
            weakref.finalize(self, self._file.close)
        return self._file


def _trim() -> None:
    """Give free memory back to the system, where the C library can: what was given up left holes between what stays."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def _fresh(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.preserve_format).detach()


def _is_alone(tensor: Tensor) -> bool:
    """Whether nobody else shows the tensor's memory, and it has a place for each element there."""
    if _count is None or tensor.layout is not torch.strided or not tensor.ndim or not tensor.nbytes:
        return False
    storage, other = tensor.untyped_storage(), torch.empty(1)
    alone = _count(storage._cdata) <= _count(other.untyped_storage()._cdata)
    return bool(alone and _is_dense(tensor) and not storage.is_shared())


def _is_dense(tensor: Tensor) -> bool:
    """Whether each element has a place of its own, side by side with the others."""
    step = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1 and stride != step:
            return False
        step *= length
    return True


def _bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    """Give the numbers row after row, whatever the memory format.

    By a copy: a tensor that has shown its memory to NumPy can't be resized any more.
    """
    for rows in stretches(tuple(tensor.shape)):
        part = tensor.detach()[rows]
        copy = np.empty(part.nbytes, np.uint8)
        torch.from_numpy(copy).view(tensor.dtype).view(part.shape).copy_(part)
        yield copy.data


def _write(file: FileIO, part: memoryview) -> None:
    while part:
        part = part[file.write(part) :]


def _read(file: FileIO, part: memoryview) -> None:
    while part:
        count = file.readinto(part)
        if not count:
            raise OSError("a temporary file of bnfold's has been cut short")
        part = part[count:]
