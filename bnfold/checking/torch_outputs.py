"""What a module's forward gives, as named tensors."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from bnfold.errors import BnfoldError


def flatten(outputs: Any, name: str = "") -> dict[str, Tensor]:
    """Name what a forward gave: output, or output_0 and so on, or a dict's keys. Complex numbers become pairs.

    Of several of one name, the later ones are numbered: none is lost.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in _named_tensors(outputs, name):
        same = (f"{key}#{i}" for i in itertools.count(2))
        found[key if key not in found else next(other for other in same if other not in found)] = tensor
    return found


def _named_tensors(outputs: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(outputs, (bool, int, float)):
        outputs = torch.as_tensor(outputs)
    if isinstance(outputs, Tensor):
        yield name or "output", torch.view_as_real(outputs.resolve_conj()) if outputs.is_complex() else outputs
        return
    if is_dataclass(outputs) and not isinstance(outputs, (type, Mapping)):
        outputs = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    if isinstance(outputs, Mapping):
        parts = [(f"{name}.{key}" if name else str(key), value) for key, value in outputs.items()]
    elif isinstance(outputs, (tuple, list)):
        parts = [(f"{name or 'output'}_{i}", value) for i, value in enumerate(outputs)]
    elif outputs is None:
        return
    else:
        raise BnfoldError(f"the module gives a {type(outputs).__name__}; wanted tensors, or tuples or dicts of them")
    for part, value in parts:
        yield from _named_tensors(value, part)
