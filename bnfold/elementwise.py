"""What elementwise operators compute, for expectations over what they read."""

from collections.abc import Callable, Mapping
from math import erf
from typing import TypeAlias

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Graph, Node

Function: TypeAlias = Callable[[Floats], Floats]


def function_of(node: Node, graph: Graph) -> Function | None:
    """Give what a node computes of its first input as (channels, points); None for one that isn't elementwise."""
    match node.op:
        case ops.Identity() | ops.Cast():
            return lambda x: x
        case ops.Relu():
            return lambda x: np.maximum(x, 0.0)
        case ops.LeakyRelu(slope):
            return lambda x: np.where(x > 0, x, slope * x)
        case ops.PRelu() if node.inputs[1] in graph.constants:
            slopes = graph.constants[node.inputs[1]].load().reshape(-1, 1)
            return lambda x: np.where(x > 0, x, (slopes if len(slopes) == len(x) else slopes.mean()) * x)
        case ops.Abs():
            return np.abs
        case ops.Clip(lo, hi):
            return lambda x: np.clip(x, lo if lo is not None else -np.inf, hi if hi is not None else np.inf)
        case ops.Unknown(kind) if len(node.inputs) == 1:
            return FUNCTIONS.get(kind.removeprefix("aten.").split(".")[0].lower())
        case _:
            return None


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 + 0.5 * np.tanh(0.5 * x)
    return result


def _softplus(x: Floats) -> Floats:
    result: Floats = np.logaddexp(0.0, x)
    return result


def _erf(x: Floats) -> Floats:
    return np.array([erf(one) for one in x.flat]).reshape(x.shape)


FUNCTIONS: Mapping[str, Function] = {  # by ATen's and ONNX's names, in small letters
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "erf": _erf,
    "softplus": _softplus,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * _sigmoid(1.702 * x),  # within 0.02 of x Phi(x): Hendrycks and Gimpel 2016
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0.0, 1.0),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
}
