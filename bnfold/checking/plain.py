"""Frozen dataclasses to and from what strict JSON holds, driven by their type hints."""

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bnfold.errors import BnfoldError

T = TypeVar("T")


def to_plain(value: object) -> object:
    """Turn a dataclass, tuple, enum, number, string or None into dicts, lists, strings and finite numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # strict JSON has no NaN and no infinities
    return value


def from_plain(kind: type[T], data: object) -> T:
    """Rebuild a dataclass of type `kind` from what `to_plain` gave; `BnfoldError` for missing or unknown fields."""
    return _build(kind, data)  # type: ignore[no-any-return]


def _build(kind: Any, data: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if data is None:
            return None
        (some,) = (option for option in get_args(kind) if option is not type(None))
        return _build(some, data)
    if origin is tuple:
        return _tuple(get_args(kind), data)
    if is_dataclass(kind):
        return _dataclass(kind, data)
    if kind is float:
        return float(data)
    return kind(data)


def _tuple(kinds: tuple[Any, ...], data: Any) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_build(kinds[0], item) for item in data)
    return tuple(_build(kind, item) for kind, item in zip(kinds, data, strict=True))


def _dataclass(kind: Any, data: Any) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(data, Mapping) or set(data) - set(hints):
        raise BnfoldError(f"not a {kind.__name__}: unknown or malformed fields in {str(data)[:80]!r}")
    try:
        return kind(**{name: _build(hints[name], item) for name, item in data.items()})
    except (TypeError, ValueError) as error:
        raise BnfoldError(f"not a {kind.__name__}: {error}") from error
