"""--arch: the function or class that builds a network whose weights a file holds."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES, create

FORMS = "a name of bnfold.models, package.module:Factory, path/file.py:Factory, torchvision:NAME or timm:NAME"


def build(arch: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a fresh network. `arch` has one of `FORMS`; `arguments` are the factory's keyword arguments.

    Raises BnfoldError where the factory isn't there, fails, or gives no nn.Module. Runs the named code: it comes from
    the user's command line and never from a file.
    """
    factory = _factory(arch)
    try:
        module = factory(**(arguments or {}))
    except Exception as error:
        raise BnfoldError(f"--arch {arch}: the factory failed ({type(error).__name__}: {error})") from error
    if not isinstance(module, nn.Module):
        raise BnfoldError(f"--arch {arch}: gave a {type(module).__name__}; wanted an nn.Module")
    return module


def parse_arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read --arch-kwargs: KEY=VALUE with a JSON value, or a bare word as a text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise BnfoldError(f"--arch-kwargs {pair}: wanted KEY=VALUE")
        arguments[key] = _json_or_text(value)
    return arguments


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(value, value)


def _factory(arch: str) -> Callable[..., object]:
    if arch in ARCHITECTURES:
        return lambda **arguments: create(arch, **arguments)
    origin, colon, name = arch.rpartition(":")
    if not colon or not name:
        known = ", ".join(ARCHITECTURES)
        raise BnfoldError(f"--arch {arch}: no such network; wanted {FORMS}. bnfold.models has {known}")
    if origin in ("torchvision", "timm"):
        return _zoo(arch, origin, name)
    module = _from_file(arch, Path(origin)) if origin.endswith(".py") else _import(arch, origin)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise BnfoldError(f"--arch {arch}: {origin} has no callable {name!r}")
    return found  # type: ignore[no-any-return]


def _zoo(arch: str, package: str, name: str) -> Callable[..., object]:
    module = _import(arch, f"{package}.models" if package == "torchvision" else package)
    if package == "timm":
        return lambda **arguments: module.create_model(name, **{"pretrained": False, **arguments})
    return lambda **arguments: module.get_model(name, **{"weights": None, **arguments})


def _import(arch: str, name: str) -> ModuleType:
    _look_in(Path.cwd())  # as `python -m` does: the user's package is often where he stands
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BnfoldError(f"--arch {arch}: {name} can't be imported ({error}); install it or mend the path") from error
    except Exception as error:
        raise BnfoldError(f"--arch {arch}: {name} fails ({type(error).__name__}: {error})") from error


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _from_file(arch: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise BnfoldError(f"--arch {arch}: no such file: {path}")
    _look_in(path.resolve().parent)  # as `python FILE` does: it may import what lies beside it
    name = f"bnfold_arch_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BnfoldError(f"--arch {arch}: {path} fails ({type(error).__name__}: {error})") from error
    return module
