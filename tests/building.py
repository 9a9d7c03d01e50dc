"""Small graphs in a few lines: every constant is random, no two channels alike."""

from dataclasses import dataclass, field

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Constant, Graph, Node, Value


@dataclass
class Builder:
    """Adds nodes one after another; each method gives the name of the output."""

    seed: int = 0
    dtype: str = "float64"
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].shape

    def input(self, *shape: int, name: str = "x") -> str:
        self.values[name] = Value(name, shape, self.dtype)
        self.inputs.append(name)
        return name

    def constant(self, name: str, array: Floats) -> str:
        array = np.asarray(array, dtype=np.float64)
        self.constants[name] = Constant(name, array.shape, self.dtype, lambda: array)
        return name

    def node(self, name: str, op: ops.Op, inputs: list[str], shape: tuple[int, ...], **options: object) -> str:
        self.values[f"{name}.y"] = Value(f"{name}.y", shape, self.dtype)
        self.nodes.append(Node(name, op, tuple(inputs), (f"{name}.y",), **options))
        return f"{name}.y"

    def conv(
        self, name: str, x: str, out: int, kernel: int = 3, pad: int = 1, bias: bool = True, groups: int = 1
    ) -> str:
        batch, channels, *size = self.shape(x)
        weight = self.rng.normal(size=(out, channels // groups, *(kernel,) * len(size)))
        operands = [x, self.constant(f"{name}.weight", weight)]
        if bias:
            operands.append(self.constant(f"{name}.bias", self.rng.normal(size=out)))
        ones = (1,) * len(size)
        op = ops.Conv(ones, ones, ((pad, pad),) * len(size), groups)
        return self.node(name, op, operands, (batch, out, *(n + 2 * pad - kernel + 1 for n in size)))

    def linear(self, name: str, x: str, out: int, bias: bool = True, **options: object) -> str:
        *batch, features = self.shape(x)
        operands = [x, self.constant(f"{name}.weight", self.rng.normal(size=(out, features)))]
        if bias:
            operands.append(self.constant(f"{name}.bias", self.rng.normal(size=out)))
        return self.node(name, ops.Linear(), operands, (*batch, out), **options)

    def batch_norm(self, name: str, x: str, gamma: Floats | None = None, **options: object) -> str:
        """Random statistics; gamma of both signs, or as given."""
        channels = self.shape(x)[1]
        if gamma is None:
            gamma = self.rng.uniform(0.5, 2, channels) * np.where(np.arange(channels) % 3 == 1, -1, 1)
        operands = [
            self.constant(f"{name}.{role}", array)
            for role, array in (
                ("weight", gamma),
                ("bias", self.rng.normal(size=channels)),
                ("running_mean", self.rng.normal(size=channels)),
                ("running_var", self.rng.uniform(0.5, 2, channels)),
            )
        ]
        return self.node(name, ops.BatchNorm(1e-5), [x, *operands], self.shape(x), **options)

    def positive(self, x: str) -> Floats:
        """Give gammas that are all positive, for a BatchNorm on x."""
        return self.rng.uniform(0.5, 2, self.shape(x)[1])

    def relu(self, name: str, x: str) -> str:
        return self.node(name, ops.Relu(), [x], self.shape(x))

    def add(self, name: str, *terms: str) -> str:
        return self.node(name, ops.Sum((1.0,) * len(terms)), list(terms), self.shape(terms[0]))

    def concat(self, name: str, *parts: str, axis: int = 1) -> str:
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(part)[axis] for part in parts)
        return self.node(name, ops.Concat(axis), list(parts), tuple(shape))

    def graph(self, *outputs: str) -> Graph:
        return Graph(tuple(self.inputs), outputs, tuple(self.nodes), self.values, self.constants)
