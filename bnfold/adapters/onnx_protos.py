"""ONNX's protos: the classes of its messages, a quarter of what `import onnx` takes.

`bnfold.commands.lean` may have loaded them alone. Whoever needs more of the package imports that where it is used.
"""

import sys
from typing import TYPE_CHECKING

_GENERATED = "onnx.onnx_ml_pb2"

if TYPE_CHECKING:
    from onnx import (
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        OperatorSetIdProto,
        TensorProto,
        TensorShapeProto,
        TypeProto,
        ValueInfoProto,
    )
else:
    if _GENERATED not in sys.modules:
        import onnx  # noqa: F401
    _protos = sys.modules[_GENERATED]
    AttributeProto = _protos.AttributeProto
    FunctionProto = _protos.FunctionProto
    GraphProto = _protos.GraphProto
    ModelProto = _protos.ModelProto
    NodeProto = _protos.NodeProto
    OperatorSetIdProto = _protos.OperatorSetIdProto
    TensorProto = _protos.TensorProto
    TensorShapeProto = _protos.TensorShapeProto
    TypeProto = _protos.TypeProto
    ValueInfoProto = _protos.ValueInfoProto

__all__ = [
    "AttributeProto",
    "FunctionProto",
    "GraphProto",
    "ModelProto",
    "NodeProto",
    "OperatorSetIdProto",
    "TensorProto",
    "TensorShapeProto",
    "TypeProto",
    "ValueInfoProto",
]
