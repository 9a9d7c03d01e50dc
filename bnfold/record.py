"""Frozen dataclasses that take little time to define.

`dataclass(frozen=True, slots=True)` writes and compiles seven methods for each class, which takes a third of a
millisecond; a command that folds one file defines some hundred and forty classes first. The methods of records are the
same functions for all, but for __init__, which is made when the first one is, from one that was compiled for as many
arguments.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from functools import cache
from inspect import get_annotations
from types import CodeType, FunctionType, MemberDescriptorType
from typing import Any, TypeVar, dataclass_transform, overload

_Class = TypeVar("_Class", bound=type)


@overload
def record(cls: _Class, /) -> _Class: ...
@overload
def record(*, eq: bool = True, slots: bool = True, frozen: bool = True) -> Callable[[_Class], _Class]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: Any = None, /, *, eq: bool = True, slots: bool = True, frozen: bool = True) -> Any:
    """Make `dataclass(frozen=frozen, slots=slots, eq=eq)` of a class. What is derived from a record is one, too.

    slots: without them, its properties may be cached. frozen: one that isn't can't be hashed by its fields.
    """
    if cls is None:
        return lambda cls: _made(cls, eq, slots, frozen)
    return _made(cls, eq, slots, frozen)


def _made(cls: type, eq: bool, slots: bool, frozen: bool) -> type:
    """Give the class its methods: a new one, all at once, where it is to have slots, for those can't be added."""
    bare: Any = dataclass(init=False, repr=False, eq=False)(cls)

    def first(self: Any, *arguments: Any, **named: Any) -> None:
        made.__init__ = _initialiser(made)
        made.__init__(self, *arguments, **named)

    methods: dict[str, Any] = {"__init__": first, **(_FROZEN if frozen else {}), **(_COMPARED if eq else {})}
    if eq and not frozen:
        methods["__hash__"] = None
    if "__repr__" not in cls.__dict__:
        methods["__repr__"] = _shown
    made = _with_slots(bare, methods) if slots else bare
    if not slots:
        for name, method in methods.items():
            setattr(made, name, method)
    found: type = made
    return found


def _with_slots(bare: Any, methods: dict[str, Any]) -> Any:
    annotated = get_annotations(bare)
    own = [item.name for item in fields(bare) if item.name in annotated]
    parts = {name: part for name, part in bare.__dict__.items() if name not in (*own, "__dict__", "__weakref__")}
    parts |= {"__slots__": tuple(own), "__qualname__": bare.__qualname__, **methods}
    return type(bare)(bare.__name__, bare.__bases__, parts)


def _initialiser(cls: Any) -> FunctionType:
    """Make `__init__(self, a, b=default): set_a(self, a) ...`; a slot's own setter takes two thirds of the time."""
    items = fields(cls)
    defaults = tuple(item.default for item in items if _has_default(item))
    if not all(_has_default(item) for item in items[len(items) - len(defaults) :]):
        raise TypeError(f"{cls.__qualname__}: a field without a default follows one that has one")
    code = _setting(len(items)).replace(co_varnames=("self", *(item.name for item in items)))
    setters = {f"set{place}": _setter(cls, item) for place, item in enumerate(items)}
    made = FunctionType(code, setters, "__init__", defaults)
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _has_default(item: Field[Any]) -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING


@cache
def _setting(count: int) -> CodeType:
    """Compile `__init__(self, a0, a1): set0(self, a0); set1(self, a1)`, of so many arguments."""
    known: dict[str, Any] = {}
    arguments = "".join(f", a{place}" for place in range(count))
    steps = "; ".join(f"set{place}(self, a{place})" for place in range(count))
    exec(f"def __init__(self{arguments}): {steps or 'pass'}", known)  # noqa: S102 - as dataclass does
    found: CodeType = known["__init__"].__code__
    return found


def _setter(cls: Any, item: Field[Any]) -> Callable[[Any, Any], None]:
    """Give what sets a field; where its default is made, MISSING stands for that."""
    slot, make = getattr(cls, item.name, None), item.default_factory

    def set_by_name(self: Any, value: Any) -> None:
        object.__setattr__(self, item.name, value)

    put = slot.__set__ if isinstance(slot, MemberDescriptorType) else set_by_name
    if make is MISSING:
        return put
    return lambda self, value: put(self, make() if value is MISSING else value)


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
