"""An ONNX model as one side of a check: in float64 for the truth, in ONNX Runtime as it is."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from bnfold.checking.inputs import numpy_dtype
from bnfold.checking.onnx_files import load_onnx
from bnfold.checking.ort import OrtSession, open_session
from bnfold.checking.providers import Target
from bnfold.checking.result import NodeRecord
from bnfold.checking.subject import Array, Examples, Feed, InputSpec, Outputs
from bnfold.checking.tolerance import budget_for
from bnfold.checking.torch_coverage import Recorder
from bnfold.checking.torch_executor import Executor, Watch
from bnfold.checking.torch_module import to_array, to_tensors, variance_ratio
from bnfold.checking.torch_noise import nudge
from bnfold.checking.torch_ops import Node
from bnfold.errors import BnfoldError, UnverifiedError

_FLOATS = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
}
_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
UNOPTIMISED = Target("cpu", (("level", "disable"), ("threads", "1")))


class OnnxSubject:
    """An ONNX model. `source` is what ONNX Runtime opens: the file (external data lies beside it) or the bytes.

    `examples`: arrays that it takes, by name or in order, which tell the ranks that the file doesn't.
    """

    named = True

    def __init__(
        self, model: onnx.ModelProto, label: str, source: bytes | Path | None = None, examples: Examples = ()
    ) -> None:
        if not model.graph.node and not model.graph.output:
            raise BnfoldError(f"{label}: not a model (no node and no output)")
        self.model, self.label = model, label
        self.source = model.SerializeToString() if source is None else source
        self.source_name = str(source) if isinstance(source, Path) else ""
        self.assumptions: tuple[str, ...] = ()
        self.inputs = _specs(model, examples)
        self.outputs = tuple(value.name for value in model.graph.output)
        self.dtype = _majority_dtype(model)
        self.recorder = Recorder()
        self._executor: Executor | None = None
        self._halved: Executor | None = None
        self._nudged: dict[int, Executor] = {}
        self._unoptimised: OrtSession | Executor | None = None

    @classmethod
    def from_file(cls, path: Path, examples: Examples = ()) -> "OnnxSubject":
        """Load a file and its external data. `BnfoldError` where it can't be read, `UnsafeError` where it must not."""
        model = load_onnx(path)
        try:
            os.fspath(path).encode()
        except UnicodeEncodeError:  # ONNX Runtime opens no such name
            subject = cls(model, path.name, None, examples)
            subject.source_name = str(path)
            return subject
        return cls(model, path.name, path, examples)

    @property
    def executor(self) -> Executor:
        """The model in float64. `MissingOperatorError` names what it lacks."""
        if self._executor is None:
            self._executor = Executor(self.model)
        return self._executor

    @property
    def halved(self) -> Executor:
        """The model with every value rounded to its half-precision dtype."""
        if self._halved is None:
            self._halved = Executor(self.model, torch.float32, _HALVES[self.dtype])
        return self._halved

    def stored_dtypes(self) -> dict[int, str]:
        """Give the float dtype in which the file holds each of the executor's constants, by the tensor's id."""
        kinds = {tensor.name: _FLOATS.get(tensor.data_type) for tensor in self.model.graph.initializer}
        return {id(value): kind for name, value in self.executor.constants.items() if (kind := kinds.get(name))}

    def _output_dtype(self, name: str, value: Array) -> Any:
        kinds = {x.name: x.type.tensor_type.elem_type for x in self.model.graph.output}
        declared = _FLOATS.get(kinds[name])
        return numpy_dtype(declared) if declared and np.issubdtype(value.dtype, np.floating) else value.dtype

    def truth(self, feed: Feed) -> Outputs:
        """Run in float64."""
        return self._run_executor(self.executor, feed, torch.float64, watch=self.recorder.watch)

    def own(self, feed: Feed) -> Outputs:
        """Run in ONNX Runtime with optimisation off, or in the executor where the runtime can't.

        A half-precision model is run with every value rounded to its dtype: on the CPU, ONNX Runtime computes such a
        model in float32, which would leave a device that does not no room.
        """
        if self.dtype in _HALVES:
            outputs = self._run_executor(self.halved, feed, torch.float32)
            return {name: value.astype(self._output_dtype(name, value)) for name, value in outputs.items()}
        if self._unoptimised is None:
            self._unoptimised = self._open_unoptimised()
        if isinstance(self._unoptimised, Executor):
            return self._run_executor(self._unoptimised, feed, torch.float32)
        return self._unoptimised.run(self.by_name(feed))

    def nudged(self, feed: Feed, times: int = 1) -> Outputs:
        """Run in float64 with every weight moved by `times` roundings of its dtype."""
        if times not in self._nudged:
            self._nudged[times] = self.executor.nudged(times * budget_for(self.dtype).unit)
        return self._run_executor(self._nudged[times], feed, torch.float64)

    def perturbed(self, feed: Feed, seed: int) -> Outputs:
        """Run in float64 with every weight, input and result moved by one rounding of the model's dtype."""
        unit, generator = budget_for(self.dtype).unit, torch.Generator().manual_seed(seed)
        moved = tuple(nudge(tensor, unit, generator).numpy() for tensor in to_tensors(feed, torch.float64))
        return self._run_executor(self.executor.nudged(unit, seed, throughout=True), moved, torch.float64)

    def input_scale(self, feed: Feed) -> float:
        """Tell what to multiply `feed` by so that the first BatchNorm sees the variance that it was trained on."""
        found: list[float] = []

        def look(node: Node, inputs: tuple[Tensor | None, ...], _: tuple[Tensor, ...]) -> None:
            if node.operator == "BatchNormalization" and not found:
                x, running = inputs[0], inputs[4]
                assert x is not None
                assert running is not None
                found.append(variance_ratio(x, running))

        self._run_executor(self.executor, feed, torch.float64, watch=look)
        return found[0] if found else 1.0

    def by_name(self, feed: Feed) -> dict[str, Array]:
        """Name a feed's arrays, each in its input's dtype."""
        return {
            spec.name: np.asarray(array, numpy_dtype(spec.dtype), order="C")  # which leaves a scalar one
            for spec, array in zip(self.inputs, feed, strict=True)
        }

    def open(self, target: Target, *, allow_fallback: bool) -> "OnnxRunner":
        """Open in ONNX Runtime, proven to be on the provider."""
        return OnnxRunner(self, open_session(self.source, target, allow_fallback=allow_fallback))

    def _open_unoptimised(self) -> OrtSession | Executor:
        try:
            return open_session(self.source, UNOPTIMISED)
        except UnverifiedError as error:
            if self.dtype != "float32":
                raise
            self.assumptions = (f"{self.label}: its own error is that of bnfold's float32 executor, since {error}",)
            return Executor(self.model, torch.float32)

    def _run_executor(self, executor: Executor, feed: Feed, dtype: torch.dtype, watch: Watch | None = None) -> Outputs:
        tensors = to_tensors(feed, dtype)
        names = [spec.name for spec in self.inputs]
        try:
            with torch.no_grad():
                outputs = executor.run(dict(zip(names, tensors, strict=True)), watch=watch)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnverifiedError(f"{self.label} could not be run: {why[:300]}") from error
        return {name: to_array(value) for name, value in outputs.items()}


@dataclass(frozen=True)
class OnnxRunner:
    """An ONNX model on one provider."""

    subject: OnnxSubject
    session: OrtSession

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        """Where each node runs."""
        return self.session.nodes

    @property
    def proven(self) -> bool:
        """Whether the runtime told the provider of every node."""
        return self.session.proven

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a sentence about where the nodes run."""
        return self.session.notes

    def run(self, feed: Feed) -> Outputs:
        """Run once."""
        return self.session.run(self.subject.by_name(feed))


def _specs(model: onnx.ModelProto, examples: Examples) -> tuple[InputSpec, ...]:
    stored = {x.name for x in model.graph.initializer} | {x.values.name for x in model.graph.sparse_initializer}
    values = [value for value in model.graph.input if value.name not in stored]
    given = examples if isinstance(examples, Mapping) else dict(zip((x.name for x in values), examples, strict=False))
    return tuple(_spec(model.graph, value, given.get(value.name)) for value in values)


def _spec(graph: onnx.GraphProto, value: onnx.ValueInfoProto, example: Array | None) -> InputSpec:
    if not value.type.HasField("tensor_type"):
        raise UnverifiedError(f"input {value.name} is no tensor; only tensors can be fed")
    kind = value.type.tensor_type
    if kind.elem_type == TensorProto.UNDEFINED:
        raise UnverifiedError(f"input {value.name} has no dtype; the model is malformed")
    if not kind.HasField("shape") and example is None:
        raise UnverifiedError(f"input {value.name} has no shape; give inputs of your own")
    declared = [dim.dim_value if _is_fixed(dim) else dim.dim_param for dim in kind.shape.dim]
    known = declared if kind.HasField("shape") or example is None else [""] * example.ndim
    dims = tuple(f"{value.name}_{axis}" if dim == "" else dim for axis, dim in enumerate(known))
    dtype = _FLOATS.get(kind.elem_type) or helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return InputSpec(value.name, dtype, dims, _limit(graph, value.name))


def _is_fixed(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """Whether a size is told; torch's first exporters write -1 for one that is not."""
    return bool(dim.HasField("dim_value") and dim.dim_value >= 0)


def _limit(graph: onnx.GraphProto, name: str) -> int:
    """The smallest number of rows that the input's integers index."""
    rows = {x.name: x.dims[0] for x in graph.initializer if x.dims}
    gathers = [tuple(node.input) for node in graph.node if node.op_type == "Gather"]
    return min((rows[table] for table, *index in gathers if index == [name] and table in rows), default=2)


def _majority_dtype(model: onnx.ModelProto) -> str:
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            sizes[_FLOATS[tensor.data_type]] += int(np.prod(tensor.dims))
    if not sizes:
        kinds = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
        sizes.update(_FLOATS[kind] for kind in kinds if kind in _FLOATS)
    return sizes.most_common(1)[0][0] if sizes else "float32"


def nudged_model(subject: OnnxSubject, seed: int = 0) -> OnnxSubject:
    """Copy with every float32 initializer moved by `one_step`."""
    model = onnx.ModelProto()
    model.CopyFrom(subject.model)
    generator = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(one_step(numpy_helper.to_array(tensor), generator), tensor.name))
    return OnnxSubject(model, subject.label)


def one_step(array: Array, generator: np.random.Generator) -> Array:
    """Multiply float32 numbers by 1 + 2^-23, 1 or 1 - 2^-23 at random; leave other numbers.

    One whole step for most of them: a step of one half would round back for all.
    """
    if array.dtype != np.float32:
        return array
    return (array.astype(np.float64) * (1 + 2.0**-23 * generator.integers(-1, 2, array.shape))).astype(np.float32)
