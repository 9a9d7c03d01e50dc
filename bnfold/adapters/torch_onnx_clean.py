"""What torch.onnx.export leaves behind when it may not optimise: computed zero biases, the exporter's own paths."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
from onnx import numpy_helper, version_converter

from bnfold.errors import BnfoldError

_WITH_BIAS = ("Conv", "ConvTranspose")


def cleaned(program: Any) -> onnx.ModelProto:
    """Give the model of an ONNXProgram that was exported with optimize=False: the same nodes, less the scaffolding.

    Constants are folded (shapes, and the zero bias that every convolution without one gets, computed at run time);
    no rewrite rule runs, so a BatchNormalization stays one.
    """
    onnxscript.optimizer.fold_constants(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    model: onnx.ModelProto = program.model_proto
    _drop_zero_biases(model.graph)
    _strip_metadata(model)
    return model


def _drop_zero_biases(graph: onnx.GraphProto) -> None:
    """Take out the zero biases that the exporter made up; the model's own have a parameter's name."""
    made = {item.name: item for item in graph.initializer if re.fullmatch(r"val_\d+", item.name)}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type not in _WITH_BIAS or len(node.input) < 3 or node.input[2] not in made:
            continue
        name = node.input[2]
        if np.any(numpy_helper.to_array(made[name])):
            continue
        del node.input[2]
        readers[name] -= 1
        if readers[name] == 0:
            graph.initializer.remove(made[name])
            _remove_value_info(graph, name)


def _remove_value_info(graph: onnx.GraphProto, name: str) -> None:
    for item in [item for item in graph.value_info if item.name == name]:
        graph.value_info.remove(item)


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Drop what tells of the exporter's machine: stack traces with paths, and the exported program's text."""
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input):
        del holder.metadata_props[:]
    for holder in (*model.graph.initializer, *model.graph.output):
        del holder.metadata_props[:]


def in_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Give the model in the operator set that was asked for: the exporter leaves it in its own where it can't do that.

    Raises BnfoldError where ONNX's converter can't, either.
    """
    given = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if given == opset:
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[-1].rpartition(": ")[2]
        raise BnfoldError(f"--opset {opset}: can't be written ({line}); the exporter gives {given}") from error
    return converted


def with_names(model: onnx.ModelProto, symbols: Mapping[str, str]) -> onnx.ModelProto:
    """Call dynamic lengths as the user does, also inside of expressions, in place."""
    if not symbols:
        return model
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, symbols)) + r")\b")
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda match: symbols[match[1]], dim.dim_param)
    return model


def with_properties(model: onnx.ModelProto, properties: Mapping[str, str]) -> onnx.ModelProto:
    """Set metadata properties, in place."""
    known = {item.key: item for item in model.metadata_props}
    for key, value in properties.items():
        entry = known.get(key) or model.metadata_props.add()
        entry.key, entry.value = key, value
    return model
