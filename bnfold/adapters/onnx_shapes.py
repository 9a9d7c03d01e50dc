"""Shapes and types of the values, by ONNX's own inference on the model without its weights."""

import math
from collections.abc import Iterable, Mapping

from bnfold.adapters.onnx_protos import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    ValueInfoProto,
)
from bnfold.adapters.onnx_tensors import DTYPES
from bnfold.graph import Dim

_FEW, _MANY = 16, 1 << 14  # elements of a computed shape, and of all that is put together of such
_CALLED = 100_000  # nodes inside of calls that inference may go through
Shape = tuple[int, ...]
Shapes = dict[str, tuple[tuple[Dim, ...] | None, str]]  # by a value's name in its graph: shape, dtype


def inferred(proto: ModelProto) -> ModelProto:
    """Give the model with the types of its values; as it is where inference fails.

    What the file itself says of its inner values and outputs is left out first, for it may be stale; but nobody else
    knows what an operator of another domain gives.
    """
    from onnx.shape_inference import InferenceError, infer_shapes

    from bnfold.adapters.onnx_functions import every_node
    from bnfold.adapters.onnx_sizes import settle

    bare = ModelProto()
    bare.CopyFrom(proto)
    if not _are_few(bare):
        bare.ClearField("functions")
    opaque = _opaque(bare)
    told = [item for item in proto.graph.value_info if item.name in opaque]
    bare.graph.ClearField("value_info")
    bare.graph.value_info.extend(told)
    for item in bare.graph.output:
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.ClearField("shape")
    settle(bare.graph)
    if any(ends_inference(node) for graph in (bare.graph, *bare.functions) for node in every_node(graph.node)):
        return bare
    try:
        return infer_shapes(bare, check_type=False, strict_mode=False, data_prop=_is_bounded(bare.graph, {}))
    except (InferenceError, RuntimeError, ValueError):
        return bare


def _opaque(proto: ModelProto) -> set[str]:
    """Name what nodes give whose operators ONNX doesn't know."""
    functions = {(item.domain, item.name) for item in proto.functions}
    foreign = (node for node in proto.graph.node if node.domain and not node.domain.startswith("ai.onnx"))
    return {name for node in foreign if (node.domain, node.op_type) not in functions for name in node.output}


def ends_inference(node: NodeProto) -> bool:
    """Whether ONNX's rule for the operator ends the whole process: a Split that has more outputs than it says."""
    told = next((item.i for item in node.attribute if item.name == "num_outputs"), 0)
    return node.op_type == "Split" and told > 0 and told != len(node.output)


def _are_few(proto: ModelProto) -> bool:
    """Whether the nodes inside of all calls of functions are few: ONNX's inference goes through each call."""
    from bnfold.adapters.onnx_functions import every_node

    functions = {item.name for item in proto.functions}
    if any(node.op_type in functions for item in proto.functions for node in every_node(item.node)):
        return False
    largest = max((len(list(every_node(item.node))) for item in proto.functions), default=0)
    return largest * sum(node.op_type in functions for node in every_node(proto.graph.node)) <= _CALLED


def _is_bounded(graph: GraphProto, sizes: dict[str, int]) -> bool:
    """Whether the numbers that shapes are computed of stay few: ONNX's inference evaluates them without any limit.

    sizes: upper bounds of the elements, by name, of what was seen already.
    """
    for item in graph.initializer:
        sizes[item.name] = math.prod(item.dims)
    for node in graph.node:
        inputs = [sizes.get(name, _FEW) for name in node.input]
        if node.op_type == "Concat":
            size = sum(inputs)
        elif node.op_type == "ConstantOfShape":
            size = _filled(graph, node)
        elif node.op_type == "Constant":
            size = max((math.prod(item.t.dims) for item in node.attribute), default=_FEW)
        else:
            size = max(inputs, default=_FEW)
        sizes.update(dict.fromkeys(node.output, size))
        bodies = [item.g for item in node.attribute if item.HasField("g")]
        if (node.op_type in ("Concat", "ConstantOfShape") and size > _MANY) or not all(
            _is_bounded(body, sizes) for body in bodies
        ):
            return False
    return True


def _filled(graph: GraphProto, node: NodeProto) -> int:
    """Count what a ConstantOfShape makes; more than is allowed where its shape is computed."""
    from onnx import numpy_helper

    given = {item.name: item for item in graph.initializer}
    given |= {made.output[0]: item.t for made in graph.node for item in made.attribute if made.op_type == "Constant"}
    held = given.get(node.input[0]) if node.input else None
    if held is None or held.data_type != TensorProto.INT64 or math.prod(held.dims) > _FEW:
        return _MANY + 1
    if held.data_location == TensorProto.EXTERNAL:  # which ONNX's helper would look for in the working folder
        return _MANY + 1
    try:
        return math.prod(int(size) for size in numpy_helper.to_array(held).reshape(-1))
    except ValueError:
        return _MANY + 1


def shapes(graph: GraphProto) -> Shapes:
    """Read the types that a graph holds."""
    found: Shapes = {}
    for info in (*graph.output, *graph.value_info, *graph.input):
        found[info.name] = type_of(info.type)
    return found


def type_of(proto: TypeProto) -> tuple[tuple[Dim, ...] | None, str]:
    """Give shape and dtype; None and "unknown" where the type says nothing of them."""
    if not proto.HasField("tensor_type"):
        return None, "unknown"
    tensor = proto.tensor_type
    dtype = DTYPES[tensor.elem_type][0] if tensor.elem_type in DTYPES else "unknown"
    if not tensor.HasField("shape"):
        return None, dtype
    return tuple(_dim(dim) for dim in tensor.shape.dim), dtype


def _dim(dim: TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value > 0 else None  # exporters write 0 and -1 for "any"
    return dim.dim_param or None


def settled(
    found: Shapes, inputs: Iterable[ValueInfoProto], nodes: Iterable[NodeProto], sizes: Mapping[str, Shape]
) -> Shapes:
    """Put numbers in the place of symbols that inference made, where a weight tells the length: of channels, mostly.

    nodes: standard ones. sizes: shapes of the constants, by name. The file's own symbols, which its inputs have, stay:
    two lengths may go by one name there. Where inference knows nothing of what a weight is applied to, its rank is the
    weight's.
    """
    nodes = list(nodes)
    found = {**found, **_ranked(found, nodes, sizes)}
    given = {dim for item in inputs for dim in type_of(item.type)[0] or ()}
    made = {dim for shape, _ in found.values() for dim in shape or () if isinstance(dim, str)} - given
    if not made:
        return found
    lengths: dict[Dim, set[int]] = {}
    for node in nodes:
        shape, weight = (
            (found.get(node.input[0], (None, ""))[0], sizes.get(node.input[1])) if node.input[1:] else ((), ())
        )
        axis, length = contracted(node, weight or ())
        if shape is not None and length is not None and -len(shape) <= axis < len(shape):
            lengths.setdefault(shape[axis], set()).add(length)
    known: dict[Dim, Dim] = {dim: length.pop() for dim, length in lengths.items() if dim in made and len(length) == 1}
    return {
        name: (None if shape is None else tuple(known.get(dim, dim) for dim in shape), dtype)
        for name, (shape, dtype) in found.items()
    }


def _ranked(found: Shapes, nodes: Iterable[NodeProto], sizes: Mapping[str, Shape]) -> Shapes:
    """Give the shapes, unknown but for the channels, of what is read by layers that take one rank only."""
    told: Shapes = {}
    for node in nodes:
        weight = sizes.get(node.input[1]) if node.input[1:] else None
        shape, dtype = found.get(node.input[0], (None, "unknown")) if weight else ((), "")
        axis, length = contracted(node, weight or ())
        if shape is None and weight and length is not None and node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            told[node.input[0]] = (tuple(length if place == axis else None for place in range(len(weight))), dtype)
    return told


def contracted(node: NodeProto, weight: Shape) -> tuple[int, int | None]:
    """Which axis of its first input the shape of a node's weight tells, and its length; None where it tells none."""
    numbers = {item.name: item.i for item in node.attribute}
    match node.op_type, len(weight):
        case "BatchNormalization", 1:
            return 1, weight[0]
        case "Conv", rank if rank > 2:
            return 1, weight[1] * numbers.get("group", 1)
        case "ConvTranspose", rank if rank > 2:
            return 1, weight[0]
        case "MatMul", 2:
            return -1, weight[0]
        case "Gemm", 2:
            return 0 if numbers.get("transA") else 1, weight[1 if numbers.get("transB") else 0]
    return 0, None
