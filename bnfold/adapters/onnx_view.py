"""A node as the readers of the operator families see it: its attributes and operands, of any opset."""

from collections.abc import Callable, Mapping, Set
from dataclasses import field
from typing import TypeAlias

import numpy as np

from bnfold.adapters.onnx_constants import Known
from bnfold.adapters.onnx_protos import AttributeProto
from bnfold.adapters.onnx_scopes import FileNode
from bnfold.graph import Dim, Value
from bnfold.ops import Op
from bnfold.record import record
from bnfold.why import Why

_FEW = 4096  # elements of an operand of indices, axes or sizes


@record
class Part:
    """One node of the Graph. inputs: where they aren't the file's node's, its first input among them."""

    op: Op
    inputs: tuple[str, ...] | None = None
    limits: Mapping[str, Why] = field(default_factory=dict)


class MisreadError(ValueError):
    """A node isn't what its operator's specification says: an attribute of another type, operands that don't fit."""


Reading: TypeAlias = Op | Part | list[Part] | None  # a list: one after the other; None: no rule knows the node


@record
class View:
    """A node, with what is known of the values around it."""

    node: FileNode
    known: Mapping[str, Known]
    values: Mapping[str, Value]
    opset: int
    held: frozenset[str]  # constants that are also inputs of the model, and may be overridden
    shared: frozenset[str]  # values that are read more than once
    dequantized: Set[str]  # constants that depend on a DequantizeLinear

    def input(self, index: int) -> str:
        """Give the name of an operand; empty where it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else ""

    def constant(self, index: int) -> Known | None:
        """Give an operand that is known before the run."""
        return self.known.get(self.input(index))

    def shape(self, index: int = 0) -> tuple[Dim, ...] | None:
        """Give the shape of an operand."""
        name = self.input(index)
        if name in self.known:
            return self.known[name].shape
        return self.values[name].shape if name in self.values else None

    def shape_of_output(self, index: int = 0) -> tuple[Dim, ...] | None:
        """Give the shape of an output."""
        return self.values[self.node.outputs[index]].shape

    def rank(self, index: int = 0) -> int | None:
        """Give the number of axes of an operand."""
        shape = self.shape(index)
        return None if shape is None else len(shape)

    def axis(self, axis: int) -> int | None:
        """Count an axis of x from the front; None where x's rank is unknown or has no such axis."""
        rank = self.rank()
        if rank is None or not -rank <= axis < rank:
            return None
        return axis % rank

    def has(self, name: str) -> bool:
        """Whether the node has an attribute."""
        return self.node.attribute(name) is not None

    def _attribute(self, name: str, kind: int) -> AttributeProto | None:
        found = self.node.attribute(name)
        if found is not None and found.type != kind:
            raise MisreadError(f"{self.node.name}: attribute {name!r} is of another type")
        return found

    def number(self, name: str, default: int = 0) -> int:
        """Give an integer attribute."""
        found = self._attribute(name, AttributeProto.INT)
        return default if found is None else int(found.i)

    def real(self, name: str, default: float) -> float:
        """Give a float attribute."""
        found = self._attribute(name, AttributeProto.FLOAT)
        return default if found is None else float(found.f)

    def reals(self, name: str) -> tuple[float, ...]:
        """Give a list of floats that is an attribute; empty where it is absent."""
        found = self._attribute(name, AttributeProto.FLOATS)
        return () if found is None else tuple(found.floats)

    def text(self, name: str, default: str) -> str:
        """Give a string attribute."""
        found = self._attribute(name, AttributeProto.STRING)
        return default if found is None else found.s.decode(errors="replace")

    def numbers(self, name: str, count: int | None = None) -> tuple[int, ...] | None:
        """Give a list of integers that is an attribute; `count` of them, where that is known."""
        found = self._attribute(name, AttributeProto.INTS)
        if found is not None and count is not None and len(found.ints) != count:
            raise MisreadError(f"{self.node.name}: attribute {name!r} has {len(found.ints)} numbers; wanted {count}")
        return None if found is None else tuple(found.ints)

    def ints(self, index: int, name: str = "") -> tuple[int, ...] | None:
        """Give integers that are an operand in newer opsets, an attribute in older; None where they are computed."""
        if not self.input(index):
            return self.numbers(name)
        found = self.constant(index)
        if found is None or found.size > _FEW or found.name in self.held:
            return None
        return tuple(int(item) for item in found.array().reshape(-1))

    def scalar(self, index: int) -> float | None:
        """Give an operand of one element; None where it has more, or is computed."""
        found = self.constant(index)
        if found is None or found.size != 1 or found.name in self.held:
            return None
        return float(np.asarray(found.load()).reshape(()))

    def operands_limited(self, **parts: int) -> dict[str, Why]:
        """Give the limits of parts of the node, each by the index of the operand that it is made of."""
        return {part: Why.OVERRIDABLE for part, index in parts.items() if self.input(index) in self.held}

    def data_limits(self) -> dict[str, Why]:
        """Say why a constant that is added, multiplied, joined or looked up can't get other numbers."""
        if self.held.intersection(self.node.inputs):
            return {"operand": Why.OVERRIDABLE}
        return {} if self.dequantized.isdisjoint(self.node.inputs) else {"operand": Why.QUANTIZED}


Reader: TypeAlias = Callable[[View], Reading]
READERS: dict[str, Reader] = {}


def reads(*kinds: str) -> Callable[[Reader], Reader]:
    """Register a function as the reader of these operators of ONNX's own domain."""

    def register(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(kinds, reader))
        return reader

    return register
