"""Shapes and types of the values, by ONNX's own inference on the model without its weights."""

import onnx
from onnx.shape_inference import InferenceError, infer_shapes

from bnfold.adapters.onnx_tensors import DTYPES
from bnfold.graph import Dim

Shapes = dict[str, tuple[tuple[Dim, ...] | None, str]]  # by a value's name in its graph: shape, dtype


def inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give the model with the types of its values; as it is where inference fails.

    What the file itself says of its inner values is left out first: it may be stale, and nothing depends on it.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.graph.ClearField("value_info")
    try:
        return infer_shapes(bare, check_type=False, strict_mode=False, data_prop=True)
    except (InferenceError, RuntimeError, ValueError):
        return bare


def shapes(graph: onnx.GraphProto) -> Shapes:
    """Read the types that a graph holds."""
    found: Shapes = {}
    for info in (*graph.output, *graph.value_info, *graph.input):
        found[info.name] = _type(info.type)
    return found


def _type(proto: onnx.TypeProto) -> tuple[tuple[Dim, ...] | None, str]:
    if not proto.HasField("tensor_type"):
        return None, "unknown"
    tensor = proto.tensor_type
    dtype = DTYPES[tensor.elem_type][0] if tensor.elem_type in DTYPES else "unknown"
    if not tensor.HasField("shape"):
        return None, dtype
    return tuple(_dim(dim) for dim in tensor.shape.dim), dtype


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value > 0 else None  # exporters write 0 and -1 for "any"
    return dim.dim_param or None
