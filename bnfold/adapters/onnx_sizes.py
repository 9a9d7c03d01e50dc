"""Whole numbers that nodes make of constants: ONNX's shape inference takes axes and sizes from constants alone.

Exporters write `ReduceMean(x, Reshape([2, 3], [-1]))`; left as it is, everything behind would have no known rank.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.adapters.onnx_protos import GraphProto, NodeProto, TensorProto

FEW = 64  # elements, at most, of what is put in place
Numbers: TypeAlias = NDArray[np.generic]
_WHOLE = (TensorProto.INT32, TensorProto.INT64)


def settle(graph: GraphProto, around: Mapping[str, Numbers] | None = None) -> None:
    """Put Constant nodes in the place of nodes that only bring a few constants into another form, in `graph` itself.

    Nodes keep their places and their outputs. around: what the graphs around this one know.
    """
    from onnx import helper, numpy_helper

    known = {**(around or {}), **{item.name: array for item in graph.initializer if (array := _read(item)) is not None}}
    for item in graph.input:
        known.pop(item.name, None)  # whoever runs the model may give other numbers
    for node in graph.node:
        result = _constant(node) if node.op_type == "Constant" else _evaluated(node, known)
        if result is None:
            for item in node.attribute:
                if item.HasField("g"):
                    settle(item.g, known)
            continue
        known[node.output[0]] = result
        if node.op_type != "Constant":
            tensor = numpy_helper.from_array(result, node.output[0])
            node.CopyFrom(helper.make_node("Constant", [], [node.output[0]], name=node.name, value=tensor))


def _read(item: TensorProto) -> Numbers | None:
    """Give a small tensor of whole numbers; None for any other, and for one whose numbers aren't here."""
    if item.data_type not in _WHOLE or item.data_location == TensorProto.EXTERNAL or len(item.dims) > 1:
        return None
    from onnx import numpy_helper

    try:
        array = numpy_helper.to_array(item)
    except ValueError:
        return None
    return array if array.size <= FEW else None


def _constant(node: NodeProto) -> Numbers | None:
    if len(node.attribute) != 1 or node.domain not in ("", "ai.onnx"):
        return None
    held = node.attribute[0]
    match held.name:
        case "value":
            return _read(held.t)
        case "value_int":
            return np.asarray(held.i, np.int64)
        case "value_ints" if len(held.ints) <= FEW:
            return np.asarray(held.ints, np.int64)
        case _:
            return None


def _evaluated(node: NodeProto, known: Mapping[str, Numbers]) -> Numbers | None:
    """Give what the node makes; None where it isn't one of these operators, or does not run."""
    evaluate = _EVALUATORS.get(node.op_type)
    if evaluate is None or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    operands = [known[name] for name in node.input if name in known]
    if not operands or len(operands) != len(node.input):
        return None
    try:
        result = evaluate(node, operands)
    except (ValueError, IndexError, OverflowError):
        return None
    return result if result.size <= FEW else None


def _reshape(node: NodeProto, operands: list[Numbers]) -> Numbers:
    numbers, target = operands
    if any(item.name == "allowzero" and item.i for item in node.attribute):
        raise ValueError("zeros are lengths here")
    sizes = [numbers.shape[axis] if size == 0 else int(size) for axis, size in enumerate(target.reshape(-1))]
    return numbers.reshape(sizes)


def _concat(node: NodeProto, operands: list[Numbers]) -> Numbers:
    return np.concatenate(operands, axis=next((item.i for item in node.attribute if item.name == "axis"), 0))


def _cast(node: NodeProto, operands: list[Numbers]) -> Numbers:
    code = next((item.i for item in node.attribute if item.name == "to"), 0)
    if code not in _WHOLE:
        raise ValueError("no whole numbers")
    return operands[0].astype(np.int32 if code == TensorProto.INT32 else np.int64)


_EVALUATORS: Mapping[str, Callable[[NodeProto, list[Numbers]], Numbers]] = {
    "Identity": lambda _, operands: operands[0],
    "Reshape": _reshape,
    "Concat": _concat,
    "Cast": _cast,
}
