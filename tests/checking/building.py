"""Small networks with random statistics, and a plain conv-BN fold of them to ONNX that shares no code with bnfold's."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


@dataclass
class Norm:
    """A BatchNorm's numbers, in float64."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    eps: float = float(np.float32(1e-5))  # as ONNX stores it

    @property
    def affine(self):
        scale = self.gamma / np.sqrt(self.var + self.eps)
        return scale, self.beta - self.mean * scale


@dataclass
class Layer:
    """One linear layer (Conv, ConvTranspose or Gemm), its BN where it has one, and the operators behind both.

    `after`: (operator, attributes) in order; "add:NAME" adds an earlier layer's result.
    """

    name: str
    kind: str
    weight: np.ndarray
    bias: np.ndarray | None
    norm: Norm | None = None
    attributes: dict = field(default_factory=dict)
    after: Sequence = ()
    source: str = ""  # the layer whose result it reads; empty for the one before

    @property
    def out_axis(self):
        return 1 if self.kind == "ConvTranspose" else 0

    def per_row(self, value):
        """Lay one number for each output channel along the weight's own axis."""
        if self.kind == "ConvTranspose":
            groups = self.attributes.get("group", 1)
            block = np.repeat(value.reshape(groups, -1), self.weight.shape[0] // groups, axis=0)
            return block.reshape(*block.shape, *[1] * (self.weight.ndim - 2))
        return value.reshape(-1, *[1] * (self.weight.ndim - 1))


def folded(layer):
    """The layer with its BN in weight and bias, in float64."""
    if layer.norm is None:
        return layer.weight, layer.bias
    scale, shift = layer.norm.affine
    bias = np.zeros(len(scale)) if layer.bias is None else layer.bias
    return layer.weight * layer.per_row(scale), bias * scale + shift


def random_norm(generator, channels, scale=1.0):
    gamma = generator.uniform(0.4, 1.6, channels) * np.where(generator.random(channels) < 0.25, -1, 1) * scale
    return Norm(
        gamma=gamma,
        beta=generator.normal(0, 0.5, channels) * scale,
        mean=generator.normal(0, 0.7, channels),
        var=generator.uniform(0.3, 2.5, channels),
    )


@dataclass
class Network:
    """Layers, an input and outputs; `model` writes it as ONNX."""

    name: str
    shape: tuple
    layers: list
    outputs: tuple
    dtype: str = "float32"

    def model(self, fold=False, change=None):
        """Build the ONNX model: with BN nodes, or with the BNs folded. `change(name, tensor)` may replace a weight."""
        build = _Builder(self.dtype, change)
        previous = "x"
        for layer in self.layers:
            previous = build.layer(layer, layer.source or previous, fold)
        x = helper.make_tensor_value_info("x", KINDS[self.dtype], ["N", *self.shape])
        outputs = [helper.make_tensor_value_info(name, KINDS[self.dtype], None) for name in self.outputs]
        graph = helper.make_graph(build.nodes, self.name, [x], outputs, build.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class _Builder:
    def __init__(self, dtype, change):
        self.dtype, self.change = np.dtype(dtype), change
        self.nodes, self.constants = [], []

    def constant(self, name, array):
        array = np.asarray(array, np.float64).astype(self.dtype)
        array = self.change(name, array) if self.change else array
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def layer(self, layer, x, fold):
        weight, bias = folded(layer) if fold else (layer.weight, layer.bias)
        inputs = [x, self.constant(f"{layer.name}.weight", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{layer.name}.bias", bias))
        attributes = dict(layer.attributes, transB=1) if layer.kind == "Gemm" else layer.attributes
        steps = list(layer.after)
        if layer.norm is not None and not fold:
            steps.insert(0, ("BatchNormalization", {"epsilon": layer.norm.eps}))
        last = layer.name
        value = f"{layer.name}.linear" if steps else last
        self.nodes.append(helper.make_node(layer.kind, inputs, [value], name=f"{layer.name}/linear", **attributes))
        for i, (operator, options) in enumerate(steps):
            result = last if i == len(steps) - 1 else f"{layer.name}.{i}.{operator.lower()}"
            value = self.step(layer, operator, options, value, result)
        return last

    def step(self, layer, operator, options, value, result):
        inputs = [value]
        if operator == "BatchNormalization":
            norm = layer.norm
            parts = {"gamma": norm.gamma, "beta": norm.beta, "mean": norm.mean, "var": norm.var}
            inputs += [self.constant(f"{layer.name}.{key}", array) for key, array in parts.items()]
        elif operator == "Add":
            inputs.append(options["with"])
            options = {}
        elif operator == "Clip":
            inputs += [self.constant(f"{layer.name}.{key}", np.array(options[key])) for key in ("low", "high")]
            options = {}
        self.nodes.append(helper.make_node(operator, inputs, [result], name=f"{layer.name}/{operator}", **options))
        return result


def conv(name, generator, inputs, outputs, kernel=3, *, group=1, bias=True, norm=True, after=("Relu",), **options):
    """A convolution with He-scaled weights; `kernel` may be a tuple. Stride, pads and so on are ONNX's attributes."""
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = generator.standard_normal((outputs, inputs // group, *size))
    weight *= np.sqrt(2 / np.prod(weight.shape[1:]))
    options.setdefault("pads", [k // 2 for k in size] * 2)
    return Layer(
        name=name,
        kind="Conv",
        weight=weight,
        bias=generator.normal(0, 0.3, outputs) if bias else None,
        norm=random_norm(generator, outputs) if norm else None,
        attributes={"group": group, "kernel_shape": list(size), **options.pop("attributes", {}), **_only(options)},
        after=[(step, {}) if isinstance(step, str) else step for step in after],
        source=options.get("source", ""),
    )


def transposed(name, generator, inputs, outputs, kernel=2, *, group=1, after=("Relu",), **options):
    weight = generator.standard_normal((inputs, outputs // group, kernel, kernel)) / np.sqrt(inputs)
    return Layer(
        name, "ConvTranspose", weight, generator.normal(0, 0.3, outputs), random_norm(generator, outputs),
        {"group": group, "kernel_shape": [kernel, kernel], "strides": [2, 2], **_only(options)},
        [(step, {}) if isinstance(step, str) else step for step in after],
    )  # fmt: skip


def linear(name, generator, inputs, outputs, *, norm=False, after=(), scale=1.0):
    weight = generator.standard_normal((outputs, inputs)) / np.sqrt(inputs) * scale
    return Layer(
        name, "Gemm", weight, generator.normal(0, 0.3, outputs) * scale,
        random_norm(generator, outputs, scale) if norm else None, {}, [(step, {}) for step in after],
    )  # fmt: skip


def _only(options):
    return {key: value for key, value in options.items() if key in ("pads", "strides", "dilations", "output_padding")}


def networks(scale=1.0, dtype="float32"):
    """Eight networks whose outputs are multiplied by `scale` in their last layer."""
    g = np.random.default_rng(7)
    pool = ("GlobalAveragePool", {})
    flat = ("Flatten", {})
    yield Network("plain", (3, 12, 12), [
        conv("c1", g, 3, 8), conv("c2", g, 8, 12, strides=[2, 2]),
        conv("c3", g, 12, 16, after=("Relu", pool, flat)),
        linear("fc", g, 16, 10, scale=scale)], ("fc",), dtype)  # fmt: skip
    yield Network("residual", (3, 10, 10), [
        conv("c1", g, 3, 8), conv("c2", g, 8, 8),
        conv("c3", g, 8, 8, bias=False, after=(("Add", {"with": "c1"}), "Relu")),
        conv("c4", g, 8, 8, after=("Relu", pool, flat)),
        linear("fc", g, 8, 6, scale=scale)], ("fc",), dtype)  # fmt: skip
    yield Network("depthwise", (4, 12, 12), [
        conv("c1", g, 4, 16, 1), conv("dw", g, 16, 16, group=16, after=(("Clip", {"low": 0, "high": 6}),)),
        conv("pw", g, 16, 8, 1, bias=False, after=()), conv("g", g, 8, 12, group=4, after=("Relu", pool, flat)),
        linear("fc", g, 12, 5, scale=scale)], ("fc",), dtype)  # fmt: skip
    yield Network("mlp", (20,), [
        linear("l1", g, 20, 32, norm=True, after=("Relu",)),
        linear("l2", g, 32, 32, norm=True, after=("Sigmoid",)),
        linear("l3", g, 32, 32, norm=True, after=("Relu",)),
        linear("fc", g, 32, 10, scale=scale)], ("fc",), dtype)  # fmt: skip
    yield Network("decoder", (6, 5, 5), [
        conv("c1", g, 6, 12), transposed("t1", g, 12, 8, group=2), transposed("t2", g, 8, 6),
        _scaled(conv("out", g, 6, 3, norm=True, after=()), scale)], ("out",), dtype)  # fmt: skip
    yield Network("sequence", (5, 24), [
        conv("c1", g, 5, 10, (5,)), conv("c2", g, 10, 10, (3,), dilations=[2], pads=[2, 2]),
        conv("c3", g, 10, 14, (3,), strides=[2], after=("LeakyRelu", pool, flat)),
        linear("fc", g, 14, 4, scale=scale)], ("fc",), dtype)  # fmt: skip
    yield Network("two outputs", (3, 8, 8), [
        conv("c1", g, 3, 8), conv("c2", g, 8, 8),
        _scaled(conv("mask", g, 8, 4, 1, after=()), scale),
        _scaled(conv("depth", g, 8, 4, 1, after=(), source="c2"), scale)],
        ("mask", "depth"), dtype)  # fmt: skip
    yield Network("volume", (2, 6, 6, 6), [
        conv("c1", g, 2, 6, (3, 3, 3)), conv("c2", g, 6, 8, (1, 3, 3)), conv("c3", g, 8, 8, (3, 3, 3), bias=False),
        _scaled(conv("out", g, 8, 4, (1, 1, 1), after=()), scale)], ("out",), dtype)  # fmt: skip


def _scaled(layer, scale):
    layer.norm.gamma, layer.norm.beta = layer.norm.gamma * scale, layer.norm.beta * scale
    return layer


def weights_of(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_weight(model, name, array):
    """Copy the model with one initializer replaced."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return copy
