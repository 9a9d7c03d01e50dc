"""Faults to plant: each makes, of a network, a candidate that a wrong fold (or a wrong export) could have given."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.checking.building import Network, weights_of, with_weight

Fault = Callable[[Network, np.random.Generator], onnx.ModelProto | None]
FAULTS: dict[str, Fault] = {}


def fault(name):
    def register(function):
        FAULTS[name] = function
        return function

    return register


def normed(network, generator):
    """Pick a layer with BN."""
    layers = [i for i, layer in enumerate(network.layers) if layer.norm is not None]
    return layers[generator.integers(len(layers))]


def with_layer(network, index, **changes):
    layers = list(network.layers)
    layers[index] = replace(layers[index], **changes)
    return replace(network, layers=layers)


def with_norm(change):
    """Fold one layer with other statistics than its own."""

    def plant(network, generator):
        i = normed(network, generator)
        norm = change(copy.deepcopy(network.layers[i].norm), generator)
        return with_layer(network, i, norm=norm).model(fold=True)

    return plant


def with_tensor(which, change):
    """Change one folded weight or bias of one layer that had a BN."""

    def plant(network, generator):
        layer = network.layers[normed(network, generator)]
        model = network.model(fold=True)
        name = f"{layer.name}.{which}"
        changed = change(weights_of(model)[name].copy(), layer, generator)
        return None if changed is None else with_weight(model, name, changed)

    return plant


NORM_FAULTS = {
    "eps 1e-3 for 1e-5": lambda n, g: replace(n, eps=1e-3),
    "eps dropped": lambda n, g: replace(n, eps=0.0),
    "sqrt(var) + eps": lambda n, g: replace(n, var=(np.sqrt(n.var) + 1e-3) ** 2, eps=0.0),
    "statistics lag by one momentum": lambda n, g: replace(
        n,
        mean=0.9 * n.mean + 0.1 * g.normal(0, 0.7, len(n.mean)),
        var=0.9 * n.var + 0.1 * g.uniform(0.3, 2.5, len(n.var)),
    ),
    "n / (n - 1)": lambda n, g: replace(n, var=n.var * 128 / 127),
    "mean stale": lambda n, g: replace(n, mean=np.zeros_like(n.mean)),
    "variance stale": lambda n, g: replace(n, var=np.ones_like(n.var)),
    "mean added": lambda n, g: replace(n, mean=-n.mean),
    "beta dropped": lambda n, g: replace(n, beta=np.zeros_like(n.beta)),
    "gamma dropped": lambda n, g: replace(n, gamma=np.ones_like(n.gamma)),
    "gamma's sign lost": lambda n, g: replace(n, gamma=np.abs(n.gamma) * np.where(np.arange(len(n.gamma)) == 0, -1, 1)),
    "channels rotated": lambda n, g: replace(
        n, gamma=np.roll(n.gamma, 1), beta=np.roll(n.beta, 1), mean=np.roll(n.mean, 1), var=np.roll(n.var, 1)
    ),
    "two channels swapped": lambda n, g: replace(n, gamma=swapped(n.gamma), beta=swapped(n.beta)),
    "one channel's variance": lambda n, g: replace(n, var=n.var * one_channel(n.var, g, 1.01)),
    "one channel's gamma": lambda n, g: replace(n, gamma=n.gamma * one_channel(n.gamma, g, 1.001)),
    "one channel's shift": lambda n, g: replace(n, beta=n.beta + (one_channel(n.beta, g, 2.0) - 1) * 1e-3),
    "scale in float16": lambda n, g: replace(
        n, gamma=(n.affine[0]).astype(np.float16) * np.sqrt(n.var + n.eps), beta=n.beta
    ),
    "variance taken for a deviation": lambda n, g: replace(n, var=n.var**2),
}


def swapped(values):
    values = values.copy()
    values[[0, 1]] = values[[1, 0]]
    return values


def one_channel(values, generator, factor):
    factors = np.ones(len(values))
    factors[generator.integers(len(values))] = factor
    return factors


for _name, _change in NORM_FAULTS.items():
    FAULTS[_name] = with_norm(_change)


@fault("one weight off by 2^-12")
def one_weight(network, generator):
    def change(weight, layer, g):
        index = np.unravel_index(np.argsort(np.abs(weight).ravel())[weight.size // 2], weight.shape)
        weight[index] *= 1 + 2.0**-12
        return weight

    return with_tensor("weight", change)(network, generator)


@fault("weights in float16")
def half_weights(network, generator):
    return with_tensor("weight", lambda w, layer, g: w.astype(np.float16).astype(w.dtype))(network, generator)


@fault("weights in bfloat16")
def bfloat_weights(network, generator):
    return with_tensor(
        "weight", lambda w, layer, g: (w.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    )(network, generator)


@fault("NaN in one weight")
def nan_weight(network, generator):
    def change(weight, layer, g):
        weight.flat[g.integers(weight.size)] = np.nan
        return weight

    return with_tensor("weight", change)(network, generator)


@fault("Inf in one bias")
def inf_bias(network, generator):
    def change(bias, layer, g):
        bias[g.integers(bias.size)] = np.inf
        return bias

    return with_tensor("bias", change)(network, generator)


@fault("bias dropped")
def bias_dropped(network, generator):
    return with_tensor("bias", lambda b, layer, g: np.zeros_like(b))(network, generator)


@fault("conv's bias not scaled")
def bias_unscaled(network, generator):
    def change(bias, layer, g):
        if layer.bias is None:
            return None
        return (layer.bias + layer.norm.affine[1]).astype(bias.dtype)

    return with_tensor("bias", change)(network, generator)


@fault("bias doubled")
def bias_doubled(network, generator):
    return with_tensor("bias", lambda b, layer, g: 2 * b)(network, generator)


@fault("one bias off by 2^-10")
def one_bias(network, generator):
    def change(bias, layer, g):
        bias[np.argmax(np.abs(bias))] *= 1 + 2.0**-10
        return bias

    return with_tensor("bias", change)(network, generator)


@fault("scale applied twice")
def scaled_twice(network, generator):
    def change(weight, layer, g):
        return (weight * layer.per_row(layer.norm.affine[0])).astype(weight.dtype)

    return with_tensor("weight", change)(network, generator)


@fault("scale on the input axis")
def wrong_axis(network, generator):
    for layer in network.layers:
        if layer.norm is not None and layer.weight.ndim >= 2 and layer.weight.shape[0] == layer.weight.shape[1]:
            scale, _ = layer.norm.affine
            shape = [1, -1] + [1] * (layer.weight.ndim - 2)
            wrong = layer.weight * scale.reshape(shape)
            model = network.model(fold=True)
            return with_weight(
                model, f"{layer.name}.weight", wrong.astype(weights_of(model)[f"{layer.name}.weight"].dtype)
            )
    return None


@fault("groups transposed")
def groups_transposed(network, generator):
    for layer in network.layers:
        groups = layer.attributes.get("group", 1)
        if layer.norm is None or groups == 1 or layer.weight.shape[0] == groups:
            continue
        scale, _ = layer.norm.affine
        wrong = replace(layer, norm=None)
        value = scale.reshape(groups, -1).T.ravel()
        model = network.model(fold=True)
        weight = wrong.weight * layer.per_row(value)
        return with_weight(
            model, f"{layer.name}.weight", weight.astype(weights_of(model)[f"{layer.name}.weight"].dtype)
        )
    return None


@fault("kernel flipped")
def kernel_flipped(network, generator):
    for layer in network.layers:
        if layer.weight.ndim > 2 and max(layer.weight.shape[2:]) > 1:
            model = network.model(fold=True)
            name = f"{layer.name}.weight"
            return with_weight(model, name, np.flip(weights_of(model)[name], -1))
    return None


def with_step(network, match, replacement):
    """Replace the first operator behind a layer that `match` accepts."""
    for i, layer in enumerate(network.layers):
        for j, (operator, options) in enumerate(layer.after):
            if match(operator):
                after = list(layer.after)
                after[j : j + 1] = replacement(operator, options)
                return with_layer(network, i, after=after).model(fold=True)
    return None


@fault("activation lost")
def activation_lost(network, generator):
    return with_step(network, lambda op: op in ("Relu", "LeakyRelu", "Sigmoid"), lambda op, options: [("Identity", {})])


@fault("ReLU for the activation behind it")
def other_slope(network, generator):
    return with_step(network, lambda op: op in ("Sigmoid", "LeakyRelu", "Clip"), lambda op, options: [("Relu", {})])


@fault("ReLU added")
def relu_added(network, generator):
    last = len(network.layers) - 1
    return with_layer(network, last, after=[*network.layers[last].after, ("Relu", {})]).model(fold=True)


@fault("border padded with the edge")
def border(network, generator):
    return _repadded(network, "edge")


@fault("shift folded into a padded conv")
def shifted_border(network, generator):
    return _repadded(network, "constant", 0.05)


def _repadded(network, mode, value=0.0):
    for layer in network.layers:
        pads = layer.attributes.get("pads")
        if layer.kind != "Conv" or not pads or not any(pads):
            continue
        model = network.model(fold=True)
        rank = len(pads) // 2
        node = next(n for n in model.graph.node if n.name == f"{layer.name}/linear")
        at = list(model.graph.node).index(node)
        kind = model.graph.input[0].type.tensor_type.elem_type
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64), "border.pads")
        )
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype), "border.value"))
        pad = helper.make_node(
            "Pad", [node.input[0], "border.pads", "border.value"], ["border"], mode=mode, name="border"
        )
        node.input[0] = "border"
        for attribute in node.attribute:
            if attribute.name == "pads":
                attribute.ints[:] = [0] * len(pads)
        model.graph.node.insert(at, pad)
        return model
    return None


@fault("BN kept in training mode")
def training_mode(network, generator):
    model = network.model()
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("training_mode", 1))
            node.output.extend([f"{node.output[0]}.mean", f"{node.output[0]}.var"])
            return model
    return None


def with_outputs(change):
    """Rewrite the outputs of the folded model."""

    def plant(network, generator):
        model = network.model(fold=True)
        return change(model)

    return plant


@fault("wrong dtype")
@with_outputs
def wrong_dtype(model):
    output = model.graph.output[0]
    other = TensorProto.FLOAT16 if output.type.tensor_type.elem_type == TensorProto.FLOAT else TensorProto.FLOAT
    _behind(model, helper.make_node("Cast", ["inner"], [output.name], to=other))
    output.type.tensor_type.elem_type = other
    return model


@fault("one more axis")
@with_outputs
def more_axes(model):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "axes"))
    _behind(model, helper.make_node("Unsqueeze", ["inner", "axes"], [model.graph.output[0].name]))
    return model


@fault("a pixel or logit zeroed")
@with_outputs
def one_element(model):
    """The first channel of the output is multiplied by 1 - 2^-10."""
    name = model.graph.output[0].name
    rank = _rank(model)
    channels = _channels(model, name)
    factors = np.ones((1, channels, *[1] * (rank - 2)))
    factors[0, 0] = 1 - 2.0**-10
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.output[0].type.tensor_type.elem_type)
    model.graph.initializer.append(onnx.numpy_helper.from_array(factors.astype(dtype), "factors"))
    _behind(model, helper.make_node("Mul", ["inner", "factors"], [name]))
    return model


@fault("output renamed")
@with_outputs
def renamed(model):
    name = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Identity", [name], ["renamed"]))
    model.graph.output[0].name = "renamed"
    return model


@fault("output missing")
@with_outputs
def missing(model):
    if len(model.graph.output) < 2:
        return None
    del model.graph.output[1]
    return model


@fault("outputs permuted")
@with_outputs
def permuted(model):
    if len(model.graph.output) < 2:
        return None
    names = [output.name for output in model.graph.output]
    swap = dict(zip(names, reversed(names), strict=True))
    for node in model.graph.node:
        node.output[:] = [swap.get(name, name) for name in node.output]
        node.input[:] = [swap.get(name, name) for name in node.input]
    return model


@fault("channels of the output permuted")
@with_outputs
def channels_permuted(model):
    name = model.graph.output[0].name
    order = np.arange(_channels(model, name))
    order[:2] = [1, 0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(order, "order"))
    _behind(model, helper.make_node("Gather", ["inner", "order"], [name], axis=1))
    return model


def _behind(model, node):
    """Let the first output be computed by `node` from what it was."""
    name = model.graph.output[0].name
    for other in model.graph.node:
        other.output[:] = ["inner" if x == name else x for x in other.output]
        other.input[:] = ["inner" if x == name else x for x in other.input]
    model.graph.node.append(node)


def _rank(model):
    last = next(n for n in reversed(model.graph.node) if n.op_type in ("Conv", "ConvTranspose", "Gemm"))
    return len(weights_of(model)[last.input[1]].shape)


def _channels(model, name):
    weight = next(w for key, w in weights_of(model).items() if key == f"{name}.weight")
    return weight.shape[0]
