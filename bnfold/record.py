"""Frozen dataclasses that take little time to define.

`dataclass(frozen=True, slots=True)` writes and compiles seven methods for each class, which takes a third of a
millisecond; a command that folds one file defines some hundred and forty classes first. Of a record only __init__ is
compiled, the other methods are the same functions for all.
"""

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform, overload

_Class = TypeVar("_Class", bound=type)


@overload
def record(cls: _Class, /) -> _Class: ...
@overload
def record(*, eq: bool) -> Callable[[_Class], _Class]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: Any = None, /, *, eq: bool = True) -> Any:
    """Make `dataclass(frozen=True, slots=True, eq=eq)` of a class. What is derived from a record is one, too."""
    if cls is None:
        return lambda cls: _made(cls, eq)
    return _made(cls, eq)


def _made(cls: type, eq: bool) -> type:
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    made.__init__ = _initialiser(made)
    made.__setattr__, made.__delattr__ = _set, _delete
    made.__getstate__, made.__setstate__ = _state, _restore
    if "__repr__" not in cls.__dict__:
        made.__repr__ = _shown
    if eq:
        made.__eq__, made.__hash__ = _equal, _hash
    found: type = made
    return found


def _initialiser(cls: Any) -> Any:
    """Compile `__init__(self, a, b=default): put(self, "a", a) ...`."""
    known: dict[str, Any] = {"put": object.__setattr__, "absent": MISSING}
    arguments, steps = ["self"], []
    for item in fields(cls):
        argument = value = item.name
        if item.default is not MISSING:
            known[f"default_{item.name}"] = item.default
            argument = f"{item.name}=default_{item.name}"
        elif item.default_factory is not MISSING:
            known[f"make_{item.name}"] = item.default_factory
            argument = f"{item.name}=absent"
            value = f"make_{item.name}() if {item.name} is absent else {item.name}"
        arguments.append(argument)
        steps.append(f"\n    put(self, {item.name!r}, {value})")
    exec(f"def __init__({', '.join(arguments)}):{''.join(steps) or ' pass'}", known)  # noqa: S102 - as dataclass does
    return known["__init__"]


def _set(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, item.name) for item in fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for item, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, item.name, value)


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, item.name) for item in fields(self) if item.compare)


def _equal(self: Any, other: object) -> bool:
    return _compared(self) == _compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _shown(self: Any) -> str:
    shown = ", ".join(f"{item.name}={getattr(self, item.name)!r}" for item in fields(self) if item.repr)
    return f"{type(self).__qualname__}({shown})"
