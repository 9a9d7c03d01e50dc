"""Example inputs for a module, as the command line writes them: 1x3x224x224, ids=2x16:int64, or an .npz file."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from bnfold.errors import BnfoldError

Inputs: TypeAlias = "Tensor | str | Path | Sequence[Tensor | str] | Mapping[str, Tensor | np.ndarray] | None"

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)?(?::(?P<dtype>\w+))?")
_SEED = 20240229


def examples(inputs: "Inputs", module: nn.Module) -> tuple[Tensor, ...]:
    """Give the module's positional arguments.

    inputs: tensors, texts `[NAME=]SHAPE[:DTYPE]` (random numbers of both signs, seeded), an .npz file or a mapping
    by the names of forward's parameters (the only array of an .npz may have any: NumPy calls it arr_0).
    Raises BnfoldError for what can't be read or has no place in forward.
    """
    if inputs is None:
        return ()
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, (str, Path)) and str(inputs).endswith(".npz"):
        arrays = _from_npz(Path(inputs))
        return tuple(arrays.values()) if len(arrays) == 1 else _ordered(arrays, module)
    if isinstance(inputs, (tuple, list)) and len(inputs) == 1 and str(inputs[0]).endswith(".npz"):
        return examples(str(inputs[0]), module)
    if isinstance(inputs, Mapping):
        return _ordered({name: torch.as_tensor(value) for name, value in inputs.items()}, module)
    items = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    named = [(None, item) if isinstance(item, Tensor) else parse(str(item)) for item in items]
    if all(name is None for name, _ in named):
        return tuple(value for _, value in named)
    if any(name is None for name, _ in named):
        raise BnfoldError("inputs: name every input (NAME=SHAPE) or none")
    return _ordered({str(name): value for name, value in named}, module)


def parse(text: str) -> tuple[str | None, Tensor]:
    """Read `[NAME=]SHAPE[:DTYPE]`, for example `image=1x3x224x224:float16`."""
    match = _SPEC.fullmatch(text)
    if match is None or not (match["shape"] or match["dtype"]):
        raise BnfoldError(f"input {text!r}: wanted [NAME=]SHAPE[:DTYPE], for example 1x3x224x224 or ids=1x16:int64")
    shape = tuple(int(size) for size in (match["shape"] or "").split("x") if size)
    if np.prod(shape, dtype=float) > 2**31:
        raise BnfoldError(f"input {text!r}: more than 2 ** 31 elements")
    return match["name"], random_tensor(shape, _dtype(match["dtype"] or "float32", text))


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Give normal numbers; for integers 0 and 1, which every table of embeddings has rows for."""
    generator = torch.Generator().manual_seed(_SEED)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _dtype(name: str, text: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise BnfoldError(f"input {text!r}: no such dtype: {name}; wanted float32, float16, bfloat16, int64, bool, ...")
    return dtype


def _from_npz(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return {name: torch.from_numpy(content[name]) for name in content.files}
    except FileNotFoundError:
        raise BnfoldError(f"{path}: no such file") from None
    except Exception as error:
        raise BnfoldError(f"{path}: not an .npz of plain arrays ({type(error).__name__}: {error})") from error


def _ordered(values: Mapping[str, Tensor], module: nn.Module) -> tuple[Tensor, ...]:
    parameters = list(inspect.signature(module.forward).parameters)
    unknown = [name for name in values if name not in parameters]
    wanted = parameters[: len(values)]
    if unknown or set(wanted) != set(values):
        got = ", ".join(values)
        raise BnfoldError(f"inputs {got}: {type(module).__name__}.forward takes {', '.join(parameters) or 'nothing'}")
    return tuple(values[name] for name in wanted)
