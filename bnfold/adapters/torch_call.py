"""One call of an ATen operator with its arguments bound by name, and the table of what each operator reads as."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import fx

from bnfold.affine import Floats
from bnfold.graph import Dim
from bnfold.ops import Op
from bnfold.why import Why

Operand: TypeAlias = "fx.Node | Derived | float | None"


@dataclass(frozen=True, slots=True)
class Derived:
    """A constant that is made from another one: reshaped, or given where the operator leaves it out."""

    source: fx.Node
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """An operator of the graph before its operands have names. A number stands for a scalar constant."""

    op: Op
    operands: tuple[Operand, ...]
    limits: Mapping[str, Why] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A node of an exported graph. evaluate: gives the numbers of a tensor that is known before the run."""

    node: fx.Node
    arguments: Mapping[str, Any]
    evaluate: Callable[[fx.Node], Floats | None]

    def __getitem__(self, name: str) -> Any:
        """Give an argument by the name in the operator's schema."""
        return self.arguments[name]

    @property
    def rank(self) -> int:
        """The rank of the first tensor argument."""
        return len(shape_of(self.x))

    @property
    def x(self) -> fx.Node:
        """The first argument, a tensor."""
        first: fx.Node = next(iter(self.arguments.values()))
        return first

    def indices(self, given: fx.Node) -> tuple[int, ...] | None:
        """Give the numbers of a vector of indices, or where a mask is true; None where they aren't known."""
        numbers = self.evaluate(given)
        if numbers is None or numbers.ndim != 1:
            return None
        mask = given.meta["val"].dtype is torch.bool
        return tuple(int(index) for index in (numbers.nonzero()[0] if mask else numbers))

    def axis(self, name: str) -> int:
        """Give an argument that is an axis, never negative."""
        axis: int = self[name]
        return axis % max(self.rank, 1)


Reader: TypeAlias = Callable[[Call], Draft | None]  # None: nothing that folding knows
_READERS: dict[torch._ops.OpOverload, Reader] = {}


def reads(*targets: str) -> Callable[[Reader], Reader]:
    """Register a reader for ATen overloads (`conv2d.default`); those that this torch lacks are passed over."""

    def register(reader: Reader) -> Reader:
        for target in targets:
            name, _, overload = target.partition(".")
            packet = getattr(torch.ops.aten, name, None)
            found = getattr(packet, overload or "default", None)
            if found is not None:
                _READERS[found] = reader
        return reader

    return register


class SymbolicError(Exception):
    """A reader needs a number where the program has a symbol."""


def draft(call: Call, target: Any) -> Draft | None:
    """Read a call; None where no reader knows it, or what it needs to know is not known before the run."""
    reader = _READERS.get(target)
    try:
        return None if reader is None else reader(call)
    except SymbolicError:
        return None


def known() -> frozenset[str]:
    """The overloads that are read, as `aten.conv2d.default`."""
    return frozenset(map(str, _READERS))


def bind(node: fx.Node, target: Any, evaluate: Callable[[fx.Node], Floats | None]) -> Call:
    """Bind the node's arguments to the schema of `target`, with its defaults."""
    arguments: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        if index < len(node.args):
            value = node.args[index]
        elif argument.name in node.kwargs:
            value = node.kwargs[argument.name]
        else:
            value = argument.default_value if argument.has_default_value() else None
        arguments[argument.name] = value
    return Call(node, arguments, evaluate)


def shape_of(node: fx.Node) -> tuple[Dim, ...]:
    """Give the shape of a tensor; a length that is not known before the run is a symbol."""
    return tuple(map(dim_of, node.meta["val"].shape))


def dim_of(size: Any) -> Dim:
    """Give a length as a number, or the text of its expression."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_number else str(expression)


def length(size: object) -> int:
    """Demand a number. Raises SymbolicError for a symbol or what the program computes."""
    if not isinstance(size, int):
        raise SymbolicError
    return size


def dtype_of(node: fx.Node) -> torch.dtype:
    """Give the dtype of a tensor."""
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def is_tensor(value: object) -> bool:
    """Whether an argument is a node that gives one tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def per_axis(value: Any, count: int) -> tuple[int, ...]:
    """Give one number an axis, where one number may stand for all."""
    numbers = [value] if isinstance(value, int) else [length(number) for number in value]
    return tuple(numbers * count) if len(numbers) == 1 else tuple(numbers)
