"""The float64 executor against ONNX's own conformance tests, and what it does with what it lacks."""

import functools

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bnfold.checking import ort
from bnfold.checking.torch_executor import Executor, MissingOperatorError
from bnfold.checking.torch_ops.registry import supported, to_tensor
from tests.adapters.node_tests import node_tests
from tests.checking.building import networks

# Cases whose expected numbers are those of a narrower dtype, or that ask for what float64 does not have.
EXCUSED = {
    "bfloat16": "rounded to bfloat16",
    "bf16": "rounded to bfloat16",
    "castlike_no_saturate": "rounded to float8",
    "cast_": "rounded to the target's dtype",
    "castlike": "rounded to the target's dtype",
    "dynamicquantizelinear": "a tie in float32 is none in float64",
    "training_dropout": "random",
    "string": "text",
    "bitwise_not_3d": "uint16 is computed as int64",
    "empty_set": "no element to reduce",
    "softmax_precision": "an intermediate of float16",
    "averagepool_2d_ceil_last_window_starts_on_pad": "expected numbers have five digits",
    "resize_downsample_scales_linear_align_corners": "ONNX Runtime and torch take the integer size, as we do",
    "resize_downsample_scales_cubic_align_corners": "ONNX Runtime and torch take the integer size, as we do",
    "resize_tf_crop_and_resize_extrapolation_value": "refused by name",
}
# Known to the executor, and without a (not excused) conformance case.
WITHOUT_CASE = {
    "Cast", "CastLike", "DynamicQuantizeLinear", "GlobalLpPool", "HardSwish", "Scatter", "SimplifiedLayerNormalization",
    "Upsample",
}  # fmt: skip


@functools.cache
def conformance_cases():
    return [case for case in node_tests() if not any(word in case.name for word in EXCUSED)]


def differences(case):
    try:
        executor = Executor(case.model)
    except MissingOperatorError:
        return None
    found = []
    for inputs, outputs in case.data_sets:
        if not all(isinstance(array, np.ndarray) or np.isscalar(array) for array in (*inputs, *outputs)):
            return None  # narrow dtypes come as protobufs
        names = [value.name for value in case.model.graph.input]
        got = executor.run({n: to_tensor(np.asarray(a)) for n, a in zip(names, inputs, strict=False)})
        for name, expected in zip(got, outputs, strict=True):
            wanted, array = np.asarray(expected), got[name].numpy()
            tolerance = 2e-3 if np.float16 in {np.asarray(a).dtype.type for a in (*inputs, *outputs)} else 1e-4
            if array.shape != wanted.shape or not np.allclose(
                array.astype(float), wanted.astype(float), rtol=tolerance, atol=1e-5, equal_nan=True
            ):
                found.append(f"{case.name}: {name}")
    return found


@pytest.mark.filterwarnings("ignore")  # of NumPy, in the expected numbers
def test_conformance():
    results = {case.name: differences(case) for case in conformance_cases()}
    assert not [line for lines in results.values() for line in lines or []]
    ran = {
        node.op_type for case in conformance_cases() if results[case.name] is not None for node in case.model.graph.node
    }
    names = {name for name in supported() if not name.startswith("com.microsoft")}
    assert names - ran <= WITHOUT_CASE


def model(*nodes, inputs=(("x", (None, 3, 4, 4)),), outputs=("y",), opset=17, initializers=()):
    def value(name, shape=None):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        list(nodes), "g", [value(*x) for x in inputs], [value(y) for y in outputs], list(initializers)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_missing_operators_are_named():
    nodes = [
        helper.make_node("NonMaxSuppression", ["x", "x"], ["a"]),
        helper.make_node("Fancy", ["a"], ["y"], domain="my.own"),
    ]
    with pytest.raises(MissingOperatorError, match=r"NonMaxSuppression, my\.own\.Fancy"):
        Executor(model(*nodes))


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN"])
@pytest.mark.parametrize("told", ["by a zero point", "by an attribute"])
def test_results_of_few_bits_are_named(kind, told):
    dtype = getattr(TensorProto, kind)
    zero = helper.make_tensor("z", dtype, [1], [0])
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    if told == "by an attribute":
        node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=dtype)
    scale = onnx.numpy_helper.from_array(np.ones(1, np.float32), "s")
    with pytest.raises(MissingOperatorError, match=f"QuantizeLinear to {kind.lower()}"):
        Executor(model(node, opset=23, initializers=[scale, zero]))


def test_quantised_to_what_an_attribute_tells():
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=TensorProto.INT8)
    scale = onnx.numpy_helper.from_array(np.ones(1, np.float32), "s")
    executor = Executor(model(node, inputs=(("x", (3,)),), opset=23, initializers=[scale]))
    assert executor.run({"x": torch.tensor([-200.0, -3, 200])})["y"].tolist() == [-128, -3, 127]


def test_half_weights_are_upcast_and_casts_round_nothing():
    weight = np.array([1 / 3], np.float16)
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["b", "x"], ["y"]),
    ]
    executor = Executor(model(*nodes, inputs=(("x", (1,)),), initializers=[onnx.numpy_helper.from_array(weight, "w")]))
    x = torch.tensor([0.1], dtype=torch.float64)
    assert executor.run({"x": x})["y"].item() == 0.1 * float(weight[0]) * 0.1


def test_gradient_flows():
    executor = Executor(model(helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Mul", ["a", "a"], ["y"])))
    x = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(1, 3, 4, 4).requires_grad_()
    executor.run({"x": x})["y"].sum().backward()
    assert torch.equal(x.grad, 2 * x.detach().clamp(min=0))


def test_keep_gives_every_value_and_watch_sees_every_node():
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="first"), helper.make_node("Neg", ["a"], ["y"], name="second")]
    seen = []
    values = Executor(model(*nodes)).run(
        {"x": torch.ones(1, 3, 4, 4)}, keep=True, watch=lambda node, *_: seen.append(node.name)
    )
    assert set(values) == {"x", "a", "y"}
    assert seen == ["first", "second"]


def test_if_reads_outer_values():
    def branch(name, operator):
        node = helper.make_node(operator, ["a"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("t", "Abs"), else_branch=branch("e", "Relu")),
    ]
    condition = onnx.numpy_helper.from_array(np.array(True), "c")
    graph = model(*nodes, inputs=(("x", (2,)),), initializers=[condition])
    assert Executor(graph).run({"x": torch.tensor([1.0, -2.0])})["y"].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise"])
def test_what_onnx_runtime_writes_after_optimising(name, tmp_path):
    """Its fused operators (FusedConv, FusedGemm) against the operators that it fused."""
    network = next(network for network in networks() if network.name == name)
    options = ort.runtime().SessionOptions()
    options.log_severity_level = 4  # it warns that the file is meant for this machine
    options.graph_optimization_level = ort.runtime().GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.runtime().InferenceSession(network.model().SerializeToString(), options, providers=[ort.CPU])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert {node.op_type for node in optimised.graph.node} & {"FusedConv", "FusedGemm"}
    x = torch.randn(2, *network.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name_, value in Executor(network.model()).run({"x": x}).items():
        torch.testing.assert_close(Executor(optimised).run({"x": x})[name_], value, rtol=1e-5, atol=1e-5)
