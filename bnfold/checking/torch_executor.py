"""An ONNX file evaluated in float64 (or another dtype) by torch operators: the truth of an ONNX reference.

Every floating-point value is computed in the working dtype, whatever the file declares, and weights are upcast as they
are stored, so a Cast to float16 rounds nothing. It is differentiable, which the search for a telling input needs.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import inliner, numpy_helper
from torch import Tensor

from bnfold.checking.torch_noise import NoiseMode, nudge
from bnfold.checking.torch_ops import MissingOperatorError, Node, implementation, spell, to_tensor
from bnfold.checking.torch_ops.quantization import KINDS
from bnfold.errors import UnverifiedError

Watch = Callable[[Node, tuple[Tensor | None, ...], tuple[Tensor, ...]], None]
_FIRST_SIZE = {"Range": 0, "Resize": 1, "Upsample": 1}  # operators that floats give a size, from this input on


@dataclass(frozen=True)
class _Body:
    """A graph or subgraph, ready to run. `captured`: names that inner graphs read, which must outlive their readers."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: frozenset[str]


@dataclass(frozen=True)
class _Scope:
    values: dict[str, Tensor]
    outer: "_Scope | None" = None

    def __getitem__(self, name: str) -> Tensor:
        if name in self.values:
            return self.values[name]
        if self.outer is None:
            raise UnverifiedError(f"no float64 truth: value {name!r} is read before it is computed")
        return self.outer[name]


class Executor:
    """A loaded ONNX model that runs in `dtype`.

    `storage`: a narrower dtype to which every node's result is rounded, as a device with no wider one would.
    Raises `MissingOperatorError` at once where an operator is not known, so that no half-evaluated truth exists.
    """

    def __init__(
        self, model: onnx.ModelProto, dtype: torch.dtype = torch.float64, storage: torch.dtype | None = None
    ) -> None:
        self.dtype, self.storage = dtype, storage
        self._noise: NoiseMode | None = None
        model = inliner.inline_local_functions(model) if model.functions else model
        self._opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
        self._body = self._prepare(model.graph)
        self._sizes = _sizes(self._body)
        missing = sorted({spell(node) for node in _every_node(self._body) if implementation(node) is None})
        missing += sorted({f"QuantizeLinear to {kind}" for kind in _narrow_results(model.graph)})
        if missing:
            raise MissingOperatorError(tuple(missing))
        self.inputs = tuple(name for name in self._body.inputs if name not in self._body.constants)
        self.outputs = self._body.outputs
        self.nodes = self._body.nodes

    @property
    def constants(self) -> Mapping[str, Tensor]:
        """The initializers, in the working dtype."""
        return self._body.constants

    def nudged(self, unit: float, seed: int = 0, *, throughout: bool = False) -> "Executor":
        """Copy with every float initializer, but for those of a size, moved by up to `unit` of itself.

        `throughout`: what the nodes give too, by other noise at each run.
        """
        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: value if name in self._sizes else nudge(value, unit, generator)
            for name, value in self._body.constants.items()
        }
        other = copy.copy(self)
        other._body = replace(self._body, constants=moved)
        other._noise = NoiseMode(unit, generator) if throughout else None
        return other

    def run(self, inputs: Mapping[str, Tensor], *, keep: bool = False, watch: Watch | None = None) -> dict[str, Tensor]:
        """Evaluate. `inputs`: by name, floats in any float dtype. Gives the outputs, or every value where `keep`.

        `watch(node, inputs, outputs)` is called after each node. Overridable initializers may be given too.
        """
        given = {name: self._cast(value) for name, value in inputs.items()}
        scope = _Scope({**self._body.constants, **given})
        self._evaluate(self._body, scope, keep, watch)
        return scope.values if keep else {name: scope[name] for name in self.outputs}

    def _evaluate(self, body: _Body, scope: _Scope, keep: bool, watch: Watch | None) -> None:
        readers = Counter(name for node in body.nodes for name in node.inputs)
        pinned = body.captured.union(body.outputs)
        for node in body.nodes:
            arguments = tuple(scope[name] if name else None for name in node.inputs)
            results = self._apply(node, arguments, scope, watch)
            scope.values.update((name, value) for name, value in zip(node.outputs, results, strict=False) if name)
            if watch is not None:
                watch(node, arguments, results)
            for name in node.inputs:
                readers[name] -= 1
                if not keep and readers[name] == 0 and name not in pinned:
                    scope.values.pop(name, None)

    def _apply(
        self, node: Node, arguments: tuple[Tensor | None, ...], scope: _Scope, watch: Watch | None
    ) -> tuple[Tensor, ...]:
        if node.operator == "If":
            body = node.attributes["then_branch" if bool(arguments[0]) else "else_branch"]
            inner = _Scope(dict(body.constants), scope)
            self._evaluate(body, inner, False, watch)
            return tuple(inner[name] for name in body.outputs)
        function = implementation(node)
        assert function is not None, node
        still = node.operator in _FIRST_SIZE or not self._sizes.isdisjoint(node.outputs)
        noise = None if still else self._noise
        with noise or contextlib.nullcontext():
            results = function(node, *arguments)
        return tuple(map(self._stored, results if isinstance(results, tuple) else (results,)))

    def _stored(self, value: Tensor) -> Tensor:
        if self.storage is None or not value.is_floating_point():
            return value
        return value.to(self.storage).to(self.dtype)

    def _prepare(self, graph: onnx.GraphProto) -> _Body:
        nodes = tuple(self._node(node) for node in graph.node)
        inner = [body for node in nodes for body in _bodies(node)]
        read = {name for body in inner for node in _every_node(body) for name in node.inputs}
        dense = {x.name: self._cast(to_tensor(numpy_helper.to_array(x))) for x in graph.initializer}
        sparse = {x.values.name: self._cast(to_tensor(_densify(x))) for x in graph.sparse_initializer}
        return _Body(
            nodes=nodes,
            constants=dense | sparse,
            inputs=tuple(value.name for value in graph.input),
            outputs=tuple(value.name for value in graph.output),
            captured=frozenset(read.union(*(body.outputs for body in inner), *(body.captured for body in inner))),
        )

    def _node(self, node: onnx.NodeProto) -> Node:
        return Node(
            operator=node.op_type,
            domain=_domain(node.domain),
            name=node.name or next(iter(node.output), ""),
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={x.name: self._attribute(x) for x in node.attribute},
            opset=self._opsets.get(_domain(node.domain), 1),
            dtype=self.dtype,
        )

    def _attribute(self, attribute: onnx.AttributeProto) -> Any:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.GraphProto):
            return self._prepare(value)
        if isinstance(value, onnx.SparseTensorProto):
            return _densify(value)
        if isinstance(value, onnx.TensorProto):
            return numpy_helper.to_array(value)
        if isinstance(value, list):
            return [item.decode() if isinstance(item, bytes) else item for item in value]
        return value.decode() if isinstance(value, bytes) else value

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value


def _narrow_results(graph: onnx.GraphProto) -> Iterator[str]:
    """Name the dtypes of QuantizeLinear's results that no tensor of torch has: int4, float8 and the like."""
    zeros = {x.name: x.data_type for x in graph.initializer}
    for node in graph.node:
        attributes = {x.name: x for x in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            zeros[node.output[0]] = attributes["value"].t.data_type
        if node.op_type == "QuantizeLinear":
            told = attributes["output_dtype"].i if "output_dtype" in attributes else 0
            kind = zeros.get(node.input[2], told) if len(node.input) > 2 else told
            if kind not in KINDS:
                yield onnx.TensorProto.DataType.Name(kind).lower()
        for attribute in attributes.values():
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _narrow_results(inner)


def _densify(sparse: onnx.SparseTensorProto) -> np.ndarray[Any, Any]:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _bodies(node: Node) -> Iterator[_Body]:
    yield from (value for value in node.attributes.values() if isinstance(value, _Body))


def _every_node(body: _Body) -> Iterator[Node]:
    for node in body.nodes:
        yield node
        for inner in _bodies(node):
            yield from _every_node(inner)


def _sizes(body: _Body) -> set[str]:
    """Name the floats that give something its size, and what they are computed from, down to other values' shapes."""
    nodes = list(_every_node(body))
    sizes = {
        name for node in nodes if node.operator in _FIRST_SIZE for name in node.inputs[_FIRST_SIZE[node.operator] :]
    }
    for node in reversed(nodes):
        if node.operator not in ("Shape", "Size") and sizes.intersection(node.outputs):
            sizes.update(node.inputs)
    return sizes
