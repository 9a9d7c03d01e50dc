"""What the ONNX patterns are made of: graphs as text, and numbers that no two channels share."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

Array = np.ndarray[Any, Any]
CASES: dict[str, "Case"] = {}
_BATCH_NORM = re.compile(r"BN(<[^>]*>)?\((\w+)(?:, (\d))?\)")


@dataclass(frozen=True)
class Case:
    """A pattern. least: the affines that the best right tool must leave.

    text: a graph, where BN(x) and BN(x, 2) are a BatchNormalization with constants gamma, beta, mean, var, or gamma2...
    tensors: initializers, as arrays or as shapes of random ones. positive: every gamma. overridable: initializers that
    are inputs too.
    """

    name: str
    group: str
    text: str
    tensors: Mapping[str, Any]
    least: int = 0
    note: str = ""
    opset: int = 17
    positive: bool = False
    overridable: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """Build the model; the same each time."""
        text = _BATCH_NORM.sub(r"BatchNormalization\1(\2, gamma\3, beta\3, mean\3, var\3)", self.text)
        head = text if text.lstrip().startswith("<") else f'<ir_version: 8, opset_import: ["": {self.opset}]>\ng {text}'
        proto = parser.parse_model(head)
        named(proto.graph)
        for name, given in self.tensors.items():
            array = given if isinstance(given, np.ndarray) else numbers(name, given)
            if self.positive and name.startswith("gamma"):
                array = np.abs(array)
            dtype = self.dtypes.get(name)
            array = array if dtype is None else array.astype(dtype)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
            if name in self.overridable:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                proto.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        return proto

    def feeds(self, proto: onnx.ModelProto) -> dict[str, Array]:
        """Random inputs of both signs; every symbol is 2. What is overridable is overridden."""
        return {
            item.name: fed(f"{item.name}?", [dim.dim_value or 2 for dim in item.type.tensor_type.shape.dim], item)
            for item in proto.graph.input
        }


def named(graph: onnx.GraphProto) -> None:
    """Give every node a name, as exporters do."""
    for node in graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                named(attribute.g)


def fed(name: str, shape: list[int], item: onnx.ValueInfoProto) -> Array:
    """Draw an input."""
    kind = item.type.tensor_type.elem_type
    if kind == TensorProto.BOOL:
        return np.ones(shape, bool)
    return np.asarray(2 * numbers(name, tuple(shape))).astype(helper.tensor_dtype_to_np_dtype(kind))


def numbers(name: str, shape: tuple[int, ...]) -> Array:
    """Draw float32 numbers of both signs; a name that begins with `var` gives variances."""
    random = np.random.default_rng([7, *name.encode()])
    if name.startswith("var"):
        return np.asarray(random.uniform(0.5, 2, shape), np.float32)
    if name.startswith("gamma"):
        drawn = random.uniform(0.5, 2, shape) * np.where(np.arange(int(np.prod(shape))) % 3 == 1, -1, 1)
        return np.asarray(drawn, np.float32)
    return np.asarray(random.normal(0.2, 1, shape), np.float32)


def bn(channels: int, suffix: str = "") -> dict[str, tuple[int, ...]]:
    """Constants of BN(x) or BN(x, suffix)."""
    return {f"{part}{suffix}": (channels,) for part in ("gamma", "beta", "mean", "var")}


def case(group: str, name: str, text: str, *tensors: Mapping[str, Any], **options: Any) -> None:
    """Register a pattern."""
    if name in CASES:
        raise ValueError(f"two patterns are called {name!r}")
    joined: dict[str, Any] = {}
    for some in tensors:
        joined |= some
    CASES[name] = Case(name, group, text, joined, **options)


def ints(*values: int) -> Array:
    """An int64 tensor."""
    return np.array(values, np.int64)
