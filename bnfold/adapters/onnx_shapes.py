"""Shapes and types of the values, by ONNX's own inference on the model without its weights."""

from collections.abc import Sequence

import onnx
from onnx.shape_inference import InferenceError, infer_shapes

from bnfold.adapters.onnx_tensors import DTYPES
from bnfold.graph import Constant, Dim, Value

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


# Operators whose output has the shape and type of their first input.
_SAME = frozenset(
    {"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Sigmoid", "Tanh", "Softplus", "Mish"}
    | {"HardSigmoid", "HardSwish", "Softmax", "Clip", "Abs", "Neg", "Sqrt", "Reciprocal", "Identity", "Dropout"}
)


def completed(value: Value, kind: str, operands: Sequence[Value | Constant | None], groups: int) -> Value:
    """Add what inference left out of an output: it says nothing of what a Loop's body or a function computes.

    operands: the node's, None for an absent one. groups: of a convolution.
    """
    x = operands[0] if operands else None
    if x is None or value.shape is not None:
        return value
    weight = operands[1] if len(operands) > 1 else None
    if kind in _SAME:
        return Value(value.name, x.shape, x.dtype)
    if kind in ("Conv", "ConvTranspose") and isinstance(weight, Constant):
        return Value(value.name, _of_conv(x, weight, kind == "ConvTranspose", groups), weight.dtype)
    if kind in ("Add", "Sub", "Mul", "Div") and isinstance(weight, Constant) and _broadcasts(weight.shape, x.shape):
        return Value(value.name, x.shape, x.dtype)
    return value


def _of_conv(x: Value | Constant, weight: Constant, transposed: bool, groups: int) -> tuple[Dim, ...] | None:
    if len(weight.shape) < 3:
        return None
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return (x.shape[0] if x.shape else None, channels, *(None,) * (len(weight.shape) - 2))


def _broadcasts(shape: tuple[int, ...], onto: tuple[Dim, ...] | None) -> bool:
    """Whether a constant leaves the shape of what it is added to."""
    if onto is None or len(shape) > len(onto):
        return False
    pairs = zip(reversed(shape), reversed(onto), strict=False)
    return all(size in (1, dim) for size, dim in pairs)
