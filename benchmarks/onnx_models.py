"""ONNX files of real size, built with NumPy alone: ResNet-152, a chain of layers, and weights of several GB."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RESNET152 = ((64, 3), (128, 8), (256, 36), (512, 3))


class Builder:
    """Adds layers to a graph, with random weights and BatchNorm statistics."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an initializer in float32."""
        self.tensors.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        """Add a node; give its output."""
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, x: str, name: str, ins: int, outs: int, kernel: int, stride: int = 1) -> str:
        """Add a convolution without a bias, and its BatchNorm."""
        size = (outs, ins, kernel, kernel)
        weight = self.random.standard_normal(size, np.float32) * np.float32((2 / (ins * kernel**2)) ** 0.5)
        pad = kernel // 2
        y = self.node(
            "Conv",
            [x, self.constant(f"{name}.weight", weight)],
            name,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
        )
        return self.batch_norm(y, f"{name}.bn", outs)

    def batch_norm(self, x: str, name: str, channels: int) -> str:
        """Add a BatchNorm with statistics that no two channels share."""
        draw = self.random
        parts = {
            "gamma": draw.uniform(0.5, 1.5, channels) * draw.choice([-1, 1], channels, p=[0.1, 0.9]),
            "beta": draw.normal(0, 0.2, channels),
            "mean": draw.normal(0, 0.2, channels),
            "var": draw.uniform(0.5, 2, channels),
        }
        return self.node("BatchNormalization", [x, *(self.constant(f"{name}.{k}", v) for k, v in parts.items())], name)

    def model(self, x: tuple[str, list[object]], y: tuple[str, list[object]]) -> onnx.ModelProto:
        """Give the model with one float32 input and output."""
        ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (x, y)]
        graph = helper.make_graph(self.nodes, "benchmark", *ends, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet152() -> onnx.ModelProto:
    """ResNet-152 (He et al. 2015): 155 convolutions, each with its BatchNorm; 241 MB."""
    build = Builder()
    x = build.node("Relu", [build.conv("x", "stem", 3, 64, 7, 2)], "stem.relu")
    x = build.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    ins = 64
    for stage, (width, blocks) in enumerate(RESNET152):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 0 else 1
            y = build.node("Relu", [build.conv(x, f"{name}.conv1", ins, width, 1)], f"{name}.relu1")
            y = build.node("Relu", [build.conv(y, f"{name}.conv2", width, width, 3, stride)], f"{name}.relu2")
            y = build.conv(y, f"{name}.conv3", width, 4 * width, 1)
            if block == 0:
                x = build.conv(x, f"{name}.shortcut", ins, 4 * width, 1, stride)
            x = build.node("Relu", [build.node("Add", [y, x], f"{name}.add")], f"{name}.relu3")
            ins = 4 * width
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "average")], "flat")
    weight = build.constant("fc.weight", build.random.normal(0, 0.02, (1000, ins)))
    y = build.node("Gemm", [x, weight, build.constant("fc.bias", np.zeros(1000))], "fc", transB=1)
    return build.model(("x", ["N", 3, 224, 224]), (y, ["N", 1000]))


def chain(length: int = 1000, channels: int = 8) -> onnx.ModelProto:
    """A chain of convolutions with BatchNorm and ReLU: many nodes, few numbers."""
    build, x = Builder(), "x"
    for index in range(length):
        x = build.node("Relu", [build.conv(x, f"conv{index}", channels, channels, 3)], f"relu{index}")
    return build.model(("x", ["N", channels, 16, 16]), (x, ["N", channels, 16, 16]))
