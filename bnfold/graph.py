"""A model as folding sees it: frozen, framework-free, its weights loaded only when asked for."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from functools import cached_property
from typing import Any, TypeAlias

from bnfold.affine import Floats
from bnfold.ops import Op, Unknown
from bnfold.printable import visible
from bnfold.record import record
from bnfold.why import Why

Dim: TypeAlias = int | str | None  # a symbol stands for one length; None for any
CHANNELS = 1 << 20  # of an axis, at most, that are looked at one by one: a file of 200 bytes can tell of 2 ** 30

SLAB = 1 << 17  # elements of a constant that are looked at together: 1 MiB in float64


@record
class Value:
    """A tensor that the model computes or is given. shape is None where even the rank is unknown."""

    name: str
    shape: tuple[Dim, ...] | None
    dtype: str  # NumPy's and ml_dtypes' names: float32, bfloat16, int64, ...


@record
class Constant:
    """A tensor that is known before the run. `load` gives it in float64 and may read a file each time.

    rows: gives [start, stop) of axis 0 alone, where that costs less than all of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Floats] = field(repr=False, compare=False)
    rows: Callable[[int, int], Floats] | None = field(default=None, repr=False, compare=False)

    def slabs(self) -> Iterator[tuple[slice, Floats]]:
        """Give stretches of axis 0, in float64, with their places: all of a large tensor without holding all of it."""
        if self.rows is None or not self.shape:
            yield slice(0, self.shape[0] if self.shape else None), self.load()
            return
        for rows in stretches(self.shape):
            yield rows, self.rows(rows.start, rows.stop)


def stretches(shape: tuple[int, ...]) -> Iterator[slice]:
    """Give places on axis 0 that hold some `SLAB` elements each; a row at the least."""
    step = max(1, SLAB // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


@record
class Node:
    """One operator at work.

    name: unique, as the user knows it (a module's path, an ONNX node's name).
    inputs: names of values and constants, by the operator's signature; an empty name is an absent operand.
    limits: what of this node can't be rewritten, and why, by part: "weight", "weight_in" (the weight can be scaled by
    output channel only), "bias", "constants" (of an affine, a PReLU or a clip), "remove" (an affine that can't go),
    "frames" (of an Unknown: why its tensors must stay as they are), "sides" (a clip by channel has bounds on one side
    and isn't to get those of the other), "length" (what a sum adds up is of any length), "operand" (a constant that is
    added, multiplied, joined or looked up).
    unit: nodes of one unit are one thing in the model (a module that is called twice): their constants stay the same
    and they go together. Empty: the node stands for itself.
    sources: the nodes of the model that this one stands for, in the order of the data, where it stands for several (an
    affine made of arithmetic, a MatMul with the Add of its bias; `bnfold.raising`). Empty: the node of its own name.
    Those of a Parameter are the nodes that read it.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    limits: Mapping[str, Why] = field(default_factory=dict)
    unit: str = ""
    sources: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]


@record(slots=False)
class Graph:
    """Nodes in topological order, with the values and constants that they name."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    constants: Mapping[str, Constant]

    @cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each value or constant, once for every operand."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def producer(self) -> Mapping[str, Node]:
        """The node that computes each value."""
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes by their names."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def answers(self) -> dict[str, tuple[Node, Any]]:
        """What `bnfold.rules.linear.contraction` found of each node: it is asked again and again."""
        return {}

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """The shape of a value or constant; None where the rank is unknown."""
        if name in self.constants:
            return self.constants[name].shape
        return self.values[name].shape

    def __str__(self) -> str:
        """One line a node: `y (1, 8, 28, 28) = Conv(x, conv.weight, conv.bias) groups=1`."""
        return "\n".join(visible(self._line(node)) for node in self.nodes)

    def _line(self, node: Node) -> str:
        kind = node.op.kind if isinstance(node.op, Unknown) else type(node.op).__name__
        attributes = "".join(
            f" {item.name}={_brief(getattr(node.op, item.name))}"
            for item in fields(node.op)
            if getattr(node.op, item.name) != item.default and not isinstance(node.op, Unknown)
        )
        outputs = ", ".join(f"{name} {_shape(self.values[name].shape)}" for name in node.outputs if name)
        return f"{outputs} = {kind}({', '.join(name or '-' for name in node.inputs)}){attributes}"


def _shape(shape: tuple[Dim, ...] | None) -> str:
    if shape is None:
        return "(...)"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in shape) + ")"


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
