"""Whose fault a failure is that nobody foresaw: the model's, where ONNX's own rules refuse it.

A model is not checked beforehand: that takes longer than the fold, and the models that people have run all the same.
"""

import contextlib
from collections.abc import Iterator

from bnfold.adapters.onnx_protos import ModelProto, TensorProto
from bnfold.adapters.onnx_skeleton import Skeleton
from bnfold.errors import BnfoldError


@contextlib.contextmanager
def blaming(file: Skeleton) -> Iterator[None]:
    """Raise BnfoldError for what fails in the block because the model is no valid one; anything else is our error."""
    try:
        yield
    except (BnfoldError, OSError):
        raise
    except Exception as error:
        fault = _fault(file)
        if fault is None:
            raise
        raise BnfoldError(f"{file.source.name}: is no valid ONNX model ({fault})") from error


def _fault(file: Skeleton) -> str | None:
    """Give the first line of what ONNX says against the model; None for nothing."""
    from onnx import checker
    from onnx.shape_inference import InferenceError, infer_shapes

    from bnfold.adapters.onnx_functions import every_node
    from bnfold.adapters.onnx_shapes import ends_inference

    bare = ModelProto()
    bare.CopyFrom(file.proto)
    bare.graph.ClearField("value_info")
    if any(ends_inference(node) for node in every_node(bare.graph.node)):
        return "a Split with other outputs than num_outputs says"
    try:
        # The check of a whole model asks for all numbers, and looks for external data in the working folder.
        if file.payloads or any(item.data_location == TensorProto.EXTERNAL for item in bare.graph.initializer):
            _check_nodes(bare)
        else:
            checker.check_model(bare)
        infer_shapes(bare, check_type=True, strict_mode=True)
    except (checker.ValidationError, InferenceError, RuntimeError, ValueError) as error:
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None


def _check_nodes(proto: ModelProto) -> None:
    """Check each node by itself."""
    from onnx import checker

    from bnfold.adapters.onnx_functions import every_node

    context = checker.C.CheckerContext()
    context.ir_version = proto.ir_version
    context.opset_imports = {item.domain: item.version for item in proto.opset_import}
    functions = {(item.domain, item.name) for item in proto.functions}
    for node in every_node(proto.graph.node):
        # A body reads names that the checker isn't told of, a tensor may be without its numbers.
        whole = not any(item.HasField("g") or item.graphs or item.HasField("t") for item in node.attribute)
        if whole and (node.domain, node.op_type) not in functions:
            checker.check_node(node, context)
