"""ONNX's own node tests, each put between a linear layer and an affine, in both orders: a fold keeps the outputs.

Every operator that a reader knows is here with all the attributes that ONNX tests, and ONNX Runtime says what is right.
"""

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.adapters.onnx_file import fold_proto
from bnfold.adapters.onnx_view import READERS
from tests.adapters.node_tests import node_tests
from tests.adapters.onnx_cases import CLOSE, numbers

BOTH = {
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Concat",
    "Conv",
    "Dropout",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "MatMul",
    "MaxPool",
    "Neg",
    "ReduceSum",
    "Reshape",
    "Resize",
    "Slice",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Upsample",
}
PASSED = {  # by direction: what an affine passed
    False: BOTH | {"ConvTranspose", "Split"},
    True: BOTH | {"Expand", "Flatten", "GRU", "Tile"},
}
FEW = 1 << 14  # elements of an input


@cache
def cases():
    """ONNX's node tests of one node whose first input and output are float32 with channels on axis 1."""
    return {case.name: case for case in node_tests() if fits(case)}


def fits(case):
    graph = case.model.graph
    if len(graph.node) != 1 or graph.node[0].op_type not in READERS or not case.data_sets:
        return False
    inputs, outputs = case.data_sets[0]
    if not inputs or not all(isinstance(item, np.ndarray) for item in (*inputs, *outputs)):
        return False
    x, y = inputs[0], outputs[0]
    channels = x.ndim > 1 and y.ndim > 1 and x.dtype == y.dtype == np.float32
    return channels and 0 < x.size <= FEW and y.size > 0 and graph.node[0].input[0] == graph.input[0].name


def sandwich(case, forward):
    """linear, node, affine; or affine, node, linear. All inputs of the node but the first are initializers."""
    inputs, outputs = case.data_sets[0]
    inner = case.model.graph
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    node = proto.graph.node[0]
    tensors = [numpy_helper.from_array(a, i.name) for a, i in zip(inputs[1:], inner.input[1:], strict=True)]
    old = inner.output[0].name
    before, more = stage("before", "x", affine if forward else linear, inputs[0].shape)
    node.input[0], node.output[0] = "before_out", "after_in"
    after, others = stage("after", "after_in", linear if forward else affine, outputs[0].shape)
    graph = helper.make_graph(
        [*before, node, *after],
        "sandwich",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs[0].shape)],
        [
            helper.make_tensor_value_info("after_out", TensorProto.FLOAT, outputs[0].shape),
            *(item for item in inner.output if item.name != old),
        ],
        [*tensors, *more, *others],
    )
    proto.graph.CopyFrom(graph)
    return proto, inputs[0]


def stage(name, x, make, shape):
    return make(name, x, f"{name}_out", shape)


def affine(name, x, y, shape):
    place = (shape[1], *(1,) * (len(shape) - 2))
    nodes = [
        helper.make_node("Mul", [x, f"{name}_s"], [f"{name}_m"], name=f"{name}_mul"),
        helper.make_node("Add", [f"{name}_m", f"{name}_t"], [y], name=f"{name}_add"),
    ]
    positive = np.abs(numbers(f"{name}_s", place)) + np.float32(0.5)  # passes what keeps an order
    shift = numbers(f"{name}_t", place)
    return nodes, [numpy_helper.from_array(positive, f"{name}_s"), numpy_helper.from_array(shift, f"{name}_t")]


def linear(name, x, y, shape):
    channels = shape[1]
    if len(shape) == 2:
        weight = numpy_helper.from_array(numbers(f"{name}_w", (channels, channels)), f"{name}_w")
        return [helper.make_node("Gemm", [x, f"{name}_w"], [y], name=name)], [weight]
    size = (channels, channels, *(1,) * (len(shape) - 2))
    weight = numpy_helper.from_array(numbers(f"{name}_w", size), f"{name}_w")
    return [helper.make_node("Conv", [x, f"{name}_w"], [y], name=name)], [weight]


def outputs_of(proto, x):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def has_kernel(proto, x):
    """Whether ONNX Runtime's CPU provider can run the model."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        outputs_of(proto, x)
    except (state.NotImplemented, state.Fail, state.InvalidGraph, state.InvalidArgument):
        return False
    return True


def folded_by(proto, x):
    """Fold and compare all outputs; give the number of affines that went."""
    result = fold_proto(proto)
    if not result.plan.edits or not has_kernel(proto, x):
        return 0
    onnx.checker.check_model(result.model, full_check=True)
    for got, want in zip(outputs_of(result.model, x), outputs_of(proto, x), strict=True):
        scale = np.abs(want[np.isfinite(want)]).max(initial=1)
        np.testing.assert_allclose(got, want, rtol=0, atol=10 * CLOSE["float32"] * scale)
    return len(result.plan.folded)


@pytest.mark.parametrize("forward", [False, True], ids=["back", "forward"])
def test_every_node_test_keeps_its_outputs_between_a_linear_layer_and_an_affine(forward):
    folded = set()
    for name, case in cases().items():
        proto, x = sandwich(case, forward)
        try:
            if folded_by(proto, x):
                folded.add(case.model.graph.node[0].op_type)
        except AssertionError as error:
            pytest.fail(f"{name}: {error}")
    assert folded == PASSED[forward]
