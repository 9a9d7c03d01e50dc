"""torch.load for strangers' files: nothing in a file runs code, and a file gets no more memory than it explains."""

import contextlib
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from bnfold.errors import BnfoldError, UnsafeError
from bnfold.formats import Kind, content_of, inspect_archive

_WAYS_OUT = "use a state_dict with --arch, safetensors or ONNX instead, or, if you trust whoever made the file, --trust"
_CONTAINERS = (dict, list, tuple, set)


def load(path: Path, kind: Kind, *, trust: bool = False, max_bytes: int | None = None) -> Any:
    """Give what torch.save wrote, with its tensors on the CPU.

    Without `trust`, only plain containers, tensors and modules made of torch.nn's own layers are restored.
    Raises UnsafeError with the list of what else the file would need, BnfoldError for a damaged one.
    """
    if kind is Kind.TORCH:
        inspect_archive(path, max_bytes)
    if trust:
        return _reading(path, lambda: _loaded(path, weights_only=False))
    if kind is Kind.TORCH:
        _refuse_foreign_globals(path)
        _refuse_construction(path)
    with _layers_allowed():
        content = _reading(path, lambda: _loaded(path, weights_only=True))
    refuse_unexplained_memory(path, content)
    return content


def refuse_unexplained_memory(path: Path, content: object) -> None:
    """Refuse tensors that show more elements than there are bytes behind them: a copy would fill the memory."""
    for tensor in _tensors(content):
        dense = tensor.layout is torch.strided and not tensor.is_meta
        if dense and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UnsafeError(
                f"{path}: a tensor of shape {tuple(tensor.shape)} is expanded from "
                f"{tensor.untyped_storage().nbytes()} bytes; save it with .clone()"
            )


def _loaded(path: Path, *, weights_only: bool) -> Any:
    with path.open("rb") as file:  # of a path, torch.load takes the extension for the kind
        return torch.load(file, map_location="cpu", weights_only=weights_only)


def _reading(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except pickle.UnpicklingError as error:
        raise UnsafeError(f"{path}: refused ({_first_line(error)}); {_WAYS_OUT}") from error
    except ImportError as error:
        raise BnfoldError(
            f"{path}: needs code that can't be imported here ({_first_line(error)}); run where it can, with PYTHONPATH"
        ) from error
    except (MemoryError, RecursionError) as error:
        raise UnsafeError(f"{path}: asks for more memory or depth than a model needs") from error
    except Exception as error:
        raise BnfoldError(f"{path}: damaged or truncated ({type(error).__name__}: {_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


@cache
def layer_classes() -> dict[str, type[nn.Module]]:
    """The classes of torch.nn by their names in pickles, less losses, which can hold a function, and lazy layers."""
    found: dict[str, type[nn.Module]] = {}
    for candidate in (*vars(nn).values(), NonDynamicallyQuantizableLinear):  # the latter: nn.MultiheadAttention's
        if not (isinstance(candidate, type) and issubclass(candidate, nn.Module)):
            continue
        lazy = candidate.__name__.startswith("Lazy")
        if candidate is not nn.Module and not lazy and not candidate.__module__.endswith(".loss"):
            found[f"{candidate.__module__}.{candidate.__qualname__}"] = candidate
    return found


@contextlib.contextmanager
def _layers_allowed() -> Iterator[None]:
    # The functions are attributes of nn.TransformerEncoderLayer.
    allowed: list[Any] = [*layer_classes().values(), torch.nn.functional.relu, torch.nn.functional.gelu, set]
    with safe_globals(allowed):
        yield


def _refuse_foreign_globals(path: Path) -> None:
    with _layers_allowed():
        found = _reading(path, lambda: get_unsafe_globals_in_checkpoint(path))
    allowed = layer_classes()
    foreign = sorted({name for name in found if name not in allowed and name != "builtins.set"})
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise UnsafeError(f"{path}: opening it would run code of {shown}; {_WAYS_OUT}")


def _refuse_construction(path: Path) -> None:
    """Refuse a pickle that calls a layer's class with arguments, as pickle.dump never does: Linear(10**6, 10**6).

    Restoring a module is `cls.__new__(cls)` and its attributes: GLOBAL cls, EMPTY_TUPLE, NEWOBJ.
    """
    classes, memo = layer_classes(), set()
    pushed, previous = 0, ""  # how many opcodes ago a class was pushed
    for name, argument in _opcodes(path):
        if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            if pushed == 1:
                memo.add(argument)
            continue
        if (pushed == 1 and name != "EMPTY_TUPLE") or (pushed == 2 and name != "NEWOBJ"):
            raise UnsafeError(f"{path}: its pickle calls a layer's class with arguments, which torch.save never does")
        pushed = pushed + 1 if pushed == 1 else 0
        is_class = name == "GLOBAL" and str(argument).replace(" ", ".") in classes
        recalled = name in ("BINGET", "LONG_BINGET", "GET") and argument in memo
        if is_class or recalled:
            pushed = 1
        previous = name
    if previous != "STOP":
        raise BnfoldError(f"{path}: its pickle is truncated")


def _opcodes(path: Path) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith("data.pkl")][:1]
        content = content_of(archive, name)
    try:
        for opcode, argument, _ in pickletools.genops(content):
            yield opcode.name, argument
    except ValueError as error:
        raise BnfoldError(f"{path}: its pickle is damaged ({error})") from error


def _tensors(content: object) -> Iterator[Tensor]:
    """Every tensor in nested containers and modules, each object once."""
    seen: set[int] = set()
    pending = [content]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, nn.Module):
            pending.append(vars(item))
        elif isinstance(item, _CONTAINERS):
            pending.extend(item.values() if isinstance(item, dict) else item)
