"""An ONNX file as a Graph."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.adapters import (  # noqa: F401 - importing a family registers its readers
    onnx_elementwise,
    onnx_layout,
    onnx_linear,
    onnx_pooling,
    onnx_recurrent,
)
from bnfold.adapters.onnx_constants import EVALUATED, Known, evaluated, literal, stored
from bnfold.adapters.onnx_external import Folder
from bnfold.adapters.onnx_learning import chosen, learn
from bnfold.adapters.onnx_model import Initializer, Model
from bnfold.adapters.onnx_plain import initializer_shapes, plain_shapes
from bnfold.adapters.onnx_protos import TensorProto
from bnfold.adapters.onnx_scopes import FileNode, Scope, scopes
from bnfold.adapters.onnx_shapes import Shapes, inferred, settled, shapes
from bnfold.adapters.onnx_skeleton import ATTRIBUTE, ATTRIBUTE_TENSOR, INITIALIZER, NODE, Skeleton
from bnfold.adapters.onnx_tensors import refuse_overlaps, tensor
from bnfold.adapters.onnx_view import READERS, MisreadError, Part, View
from bnfold.errors import BnfoldError
from bnfold.graph import Dim, Node, Value
from bnfold.why import Why

OLDEST = 7
KNOWN = 26  # the newest opset of the oldest onnx that pyproject.toml allows
_LIMITABLE = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "BatchNormalization", "PRelu", "LSTM", "GRU", "RNN"}
_SEVERAL_OUTPUTS = (ops.Split, ops.MaxPool, ops.BatchNorm, ops.Recurrent)  # that their rules know of


def model(file: Skeleton, folder: Folder | None, freeze_inputs: bool = False) -> Model:
    """Read the file's structure as a Graph. Raises BnfoldError where the model is no valid one."""
    dims = initializer_shapes(file.proto)
    plain = plain_shapes(file.proto, dims)
    reader = Model(file, folder, freeze_inputs, scopes(file, inferred(file.proto) if plain is None else file.proto))
    if 0 < reader.opset < OLDEST:
        raise BnfoldError(f"{reader.name}: has opset {reader.opset}; wanted {OLDEST} or newer (onnx.version_converter)")
    _refuse_unknown(reader)
    for scope in reader.scopes.scopes:
        _read_initializers(reader, scope, dims if scope.parent is None else {})
    refuse_overlaps((item.tensor for item in reader.initializers.values()), reader.name)
    types = {id(scope): _types(reader, scope, plain) for scope in reader.scopes.scopes}
    for scope in reader.living:
        _read_inputs(reader, scope, types[id(scope)])
    for node in reader.scopes.nodes:
        if node not in reader.dead:
            _read_node(reader, node, types[id(node.scope)])
    return reader


def _refuse_unknown(reader: Model) -> None:
    """Refuse an opset that the installed onnx, which infers shapes, doesn't know."""
    if reader.opset <= KNOWN:
        return
    from onnx import defs

    newest = defs.onnx_opset_version()
    if reader.opset > newest:
        raise BnfoldError(f"{reader.name}: has opset {reader.opset}; the installed onnx knows {newest}: upgrade it")


def _types(reader: Model, scope: Scope, plain: Shapes | None) -> Shapes:
    if plain is not None and scope.parent is None:
        return plain
    stored = {local: reader.known.get(name) for local, name in scope.names.items()}
    sizes = {local: item.shape for local, item in stored.items() if item is not None}
    nodes = (
        node.proto
        for node in scope.nodes
        if node.kind == node.proto.op_type and (node.proto.domain, node.kind) not in reader.functions
    )
    said = shapes(scope.inferred)
    found = settled(said, scope.graph.input, nodes, sizes)
    reader.completed |= {scope.names[name] for name in found if name in scope.names and found[name] != said.get(name)}
    return found


def _read_initializers(reader: Model, scope: Scope, dims: Mapping[str, tuple[int, ...]]) -> None:
    """dims: the shapes of those that are known."""
    around = scope.path[-1]
    places = reader.file.layout(around.body, around.end).get(INITIALIZER, [])
    for index, (proto, place) in enumerate(zip(scope.graph.initializer, places, strict=True)):
        local = proto.name
        name = scope.names[local] if local else ""
        if not name or name in reader.initializers:
            raise BnfoldError(f"{reader.name}: two initializers are named {local!r}")
        found = tensor(proto, place.body, reader.file, reader.folder, dims.get(local))
        reader.initializers[name] = Initializer(found, scope, index, place)
        if found.dtype != "str":
            reader.known[name] = stored(name, found)


def _read_inputs(reader: Model, scope: Scope, types: Shapes) -> None:
    """Inputs become values; those that are initializers too only where their numbers may change."""
    sparse = [item.values.name for item in scope.graph.sparse_initializer]
    texts = [item.name for item in scope.graph.initializer if item.data_type == TensorProto.STRING]
    for local in (*(item.name for item in scope.graph.input), *sparse, *texts):
        name = scope.names[local]
        if name in reader.known:
            if scope.parent is None and (name not in reader.overridable or _only_limits(reader, name)):
                continue
            del reader.known[name]
        reader.values[name] = _value(name, types.get(local))


def _only_limits(reader: Model, name: str) -> bool:
    """Whether an overridable initializer is read only where limits can say that it must stay as it is."""
    readers = [node for node in reader.scopes.nodes if name in node.inputs]
    return all(node.kind in _LIMITABLE and name != node.inputs[0] for node in readers)


def _value(name: str, found: tuple[tuple[Dim, ...] | None, str] | None) -> Value:
    return Value(name, *(found or (None, "unknown")))


def _read_node(reader: Model, node: FileNode, types: Shapes) -> None:
    """Add the node's outputs to what is known, or the node to the Graph."""
    local = zip(node.outputs, node.proto.output, strict=True)  # a value's name in the Graph, and in the file
    outputs = {name: _value(name, types.get(own)) for name, own in local if name}
    if node.kind in EVALUATED and len(node.outputs) == 1 and (node.proto.domain, node.kind) not in reader.functions:
        known = _known(reader, node, outputs[node.outputs[0]])
        if known is not None:
            reader.known[known.name] = known
            if known.is_quantized or not reader.dequantized.isdisjoint(node.inputs):
                reader.dequantized.add(known.name)
            return
    if node.kind == "If":
        outputs = chosen(reader, node, outputs)
    reader.values |= outputs
    if not reader.dequantized.isdisjoint(node.inputs) and all(
        name in reader.known or name in reader.dequantized for name in node.inputs
    ):
        reader.dequantized.update(outputs)
    learn(reader, node, outputs)
    parts = _parts(reader, node)
    if isinstance(parts, Why):
        limits = {} if parts is Why.NO_RULE else {"frames": parts}
        reader.nodes.append(Node(node.name, ops.Unknown(node.kind), node.inputs, node.outputs, limits))
        return
    _append(reader, node, parts)


def _parts(reader: Model, node: FileNode) -> list[Part] | Why:
    """Ask the operator's reader; why not where there is none, or it knows no rule for this use."""
    find = READERS.get(node.kind)
    if find is None or node.bodies or (node.proto.domain, node.proto.op_type) in reader.functions:
        return Why.NO_RULE
    if any(item.ref_attr_name for item in node.attributes.values()):
        return Why.NO_RULE
    view = View(node, reader.known, reader.values, reader.opset, reader.overridable, reader.shared, reader.dequantized)
    try:
        reading = find(view)
    except MisreadError:
        return Why.MALFORMED
    if reading is None:
        return Why.NO_RULE
    parts = reading if isinstance(reading, list) else [reading if isinstance(reading, Part) else Part(reading)]
    return parts if _fits(parts[0], node) else Why.NO_RULE


def _fits(part: Part, node: FileNode) -> bool:
    """Whether the node has the outputs that the operator's rule knows of, and a first input."""
    more_outputs = isinstance(part.op, _SEVERAL_OUTPUTS)
    return bool(node.inputs and node.inputs[0]) and (more_outputs or not any(node.outputs[1:]))


def _append(reader: Model, node: FileNode, parts: list[Part]) -> None:
    """Add the parts, each but the last with a value of its own."""
    inputs = parts[0].inputs if parts[0].inputs is not None else node.inputs
    for number, part in enumerate(parts[:-1], start=1):
        name = f"{node.name}#{number}"
        before = reader.values.get(inputs[0])
        reader.values[name] = _taken(name, before, part.op)
        reader.nodes.append(Node(name, part.op, inputs, (name,), part.limits))
        inputs = (name,)
    last = parts[-1]
    if len(parts) == 1:
        inputs = last.inputs if last.inputs is not None else node.inputs
    outputs = node.outputs if isinstance(last.op, _SEVERAL_OUTPUTS) else node.outputs[:1]
    reader.nodes.append(Node(node.name, last.op, inputs, outputs, last.limits))


def _taken(name: str, before: Value | None, op: ops.Op) -> Value:
    """The value between two Takes of one Slice."""
    assert isinstance(op, ops.Take)
    if before is None or before.shape is None:
        return Value(name, None, "unknown")
    shape = list(before.shape)
    shape[op.axis] = len(op.indices)
    return replace(before, name=name, shape=tuple(shape))


def _known(reader: Model, node: FileNode, output: Value) -> Known | None:
    """Give the output as a constant, where it depends on nothing that is computed."""
    if node.kind == "Constant":
        return _constant(reader, node)
    if node.kind == "Shape":
        return _static_shape(reader, node)
    operands = node.inputs[:1] if node.kind == "CastLike" else node.inputs  # of the other, only the type counts
    if any(name and (name not in reader.known or name in reader.overridable) for name in operands):
        return None
    inputs = [reader.known.get(name) for name in operands]
    return evaluated(node, inputs, _static(output.shape), output.dtype, reader.opset)


def _static(shape: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    sizes = tuple(dim for dim in shape if isinstance(dim, int))
    return sizes if len(sizes) == len(shape) else None


def _constant(reader: Model, node: FileNode) -> Known | None:
    """Give the number of a Constant node; None for strings and sparse tensors."""
    name = node.outputs[0]
    if len(node.proto.attribute) != 1:
        return None
    found = node.proto.attribute[0]
    match found.name:
        case "value":
            held = tensor(found.t, _place_of_tensor(reader, node), reader.file, reader.folder)
            return stored(name, held, node) if held.dtype != "str" else None
        case "value_float":
            return literal(name, np.asarray(found.f, np.float32), node)
        case "value_floats":
            return literal(name, np.asarray(found.floats, np.float32), node)
        case "value_int":
            return literal(name, np.asarray(found.i, np.int64), node)
        case "value_ints":
            return literal(name, np.asarray(found.ints, np.int64), node)
        case _:
            return None


def _place_of_tensor(reader: Model, node: FileNode) -> int:
    """Find where the tensor of a Constant node begins in the file."""
    around = node.scope.path[-1]
    place = reader.file.layout(around.body, around.end)[NODE][node.index]
    attribute = reader.file.layout(place.body, place.end)[ATTRIBUTE][0]
    return reader.file.layout(attribute.body, attribute.end)[ATTRIBUTE_TENSOR][-1].body


def _static_shape(reader: Model, node: FileNode) -> Known | None:
    """Give a shape that doesn't depend on the run."""
    name = node.inputs[0]
    shape = _static(reader.known[name].shape if name in reader.known else reader.values[name].shape)
    if shape is None:
        return None
    first, last = node.attribute("start"), node.attribute("end")
    dims = shape[first.i if first is not None else None : last.i if last is not None else None]
    return literal(node.outputs[0], np.asarray(dims, np.int64), node)
