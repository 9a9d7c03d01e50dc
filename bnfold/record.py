"""Frozen dataclasses that take little time to define.

`dataclass(frozen=True, slots=True)` writes and compiles seven methods for each class, which takes a third of a
millisecond; a command that folds one file defines some hundred and forty classes first. Of a record only __init__ is
compiled, when the first one is made; the other methods are the same functions for all.
"""

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from inspect import get_annotations
from types import MemberDescriptorType
from typing import Any, TypeVar, dataclass_transform, overload

_Class = TypeVar("_Class", bound=type)


@overload
def record(cls: _Class, /) -> _Class: ...
@overload
def record(*, eq: bool = True, slots: bool = True) -> Callable[[_Class], _Class]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: Any = None, /, *, eq: bool = True, slots: bool = True) -> Any:
    """Make `dataclass(frozen=True, slots=slots, eq=eq)` of a class. What is derived from a record is one, too.

    slots: without them, its properties may be cached.
    """
    if cls is None:
        return lambda cls: _made(cls, eq, slots)
    return _made(cls, eq, slots)


def _made(cls: type, eq: bool, slots: bool) -> type:
    """Give the class its methods: a new one, all at once, where it is to have slots, for those can't be added."""
    bare: Any = dataclass(init=False, repr=False, eq=False)(cls)

    def first(self: Any, *arguments: Any, **named: Any) -> None:
        made.__init__ = _initialiser(made)
        made.__init__(self, *arguments, **named)

    methods = {"__init__": first, **_FROZEN, **(_COMPARED if eq else {})}
    if "__repr__" not in cls.__dict__:
        methods["__repr__"] = _shown
    made = _with_slots(bare, methods) if slots else bare
    if not slots:
        for name, method in methods.items():
            setattr(made, name, method)
    found: type = made
    return found


def _with_slots(bare: Any, methods: dict[str, Any]) -> Any:
    own = [item.name for item in fields(bare) if item.name in get_annotations(bare)]
    parts = {name: part for name, part in bare.__dict__.items() if name not in (*own, "__dict__", "__weakref__")}
    parts |= {"__slots__": tuple(own), "__qualname__": bare.__qualname__, **methods}
    return type(bare)(bare.__name__, bare.__bases__, parts)


def _initialiser(cls: Any) -> Any:
    """Compile `__init__(self, a, b=default): set_a(self, a) ...`; a slot's own setter takes two thirds of the time."""
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
        slot = getattr(cls, item.name, None)
        if isinstance(slot, MemberDescriptorType):
            known[f"set_{item.name}"] = slot.__set__
            steps.append(f"\n    set_{item.name}(self, {value})")
        else:
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


_FROZEN = {"__setattr__": _set, "__delattr__": _delete, "__getstate__": _state, "__setstate__": _restore}
_COMPARED = {"__eq__": _equal, "__hash__": _hash}
