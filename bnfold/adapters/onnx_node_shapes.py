"""What one node makes of operands whose shapes were found out behind ONNX's inference: its rule for that operator."""

from collections.abc import Mapping, Sequence

from bnfold.adapters.onnx_completing import Operand
from bnfold.adapters.onnx_constants import Known
from bnfold.adapters.onnx_protos import NodeProto, TypeProto
from bnfold.adapters.onnx_shapes import ends_inference, type_of
from bnfold.adapters.onnx_tensors import CODES
from bnfold.graph import Value

_FEW = 64  # elements of an operand that may say something of a shape


def inferred_values(
    values: Sequence[Value], proto: NodeProto, operands: Sequence[Operand], known: Mapping[str, Known], opset: int
) -> list[Value]:
    """Give a node's outputs as ONNX's rule for the operator infers them; as they are where that fails.

    values: as many as the node has outputs. operands: the node's, None for one that is absent or isn't known. known:
    those that are constants, by the node's own names for them.
    """
    from onnx import checker, defs, numpy_helper, shape_inference

    if ends_inference(proto):
        return list(values)
    given = dict(zip(proto.input, operands, strict=True))
    if any(name and (operand is None or operand.shape is None) for name, operand in given.items()):
        return list(values)
    types = {name: _type(operand) for name, operand in given.items() if operand is not None}
    data = {name: numpy_helper.from_array(item.array()) for name, item in known.items() if item.size <= _FEW}
    try:
        schema = defs.get_schema(proto.op_type, opset, proto.domain)
        made = shape_inference.infer_node_outputs(schema, proto, types, data)
    except (defs.SchemaError, checker.ValidationError, shape_inference.InferenceError, RuntimeError, ValueError):
        return list(values)
    return [_made(value, made.get(name)) for value, name in zip(values, proto.output, strict=True)]


def _made(value: Value, found: TypeProto | None) -> Value:
    shape, dtype = (None, "") if found is None else type_of(found)
    return value if shape is None else Value(value.name, shape, dtype if dtype != "unknown" else value.dtype)


def _type(operand: Operand) -> TypeProto:
    assert operand is not None
    found = TypeProto()
    found.tensor_type.elem_type = CODES.get(operand.dtype, 0)
    found.tensor_type.shape.SetInParent()
    for size in operand.shape or ():
        dim = found.tensor_type.shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
    return found
