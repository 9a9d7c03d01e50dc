"""Which function computes which operator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnfold.errors import UnverifiedError

Function = Callable[..., Tensor | tuple[Tensor, ...]]

_FUNCTIONS: dict[tuple[str, str], Function] = {}
RECURRENT_ACTIVATIONS = ("Sigmoid", "Tanh", "Relu")
_CONTROL = ("If",)  # run by the executor itself


class MissingOperatorError(UnverifiedError):
    """The executor lacks operators that the model uses; `operators` names them."""

    def __init__(self, operators: tuple[str, ...]) -> None:
        self.operators = operators
        super().__init__(f"no float64 truth: the executor has no {', '.join(operators)}")


@dataclass(frozen=True)
class Node:
    """One node: its operator, attributes and the opset of its domain. `dtype` is what floats are computed in."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    dtype: torch.dtype

    def get(self, name: str, default: Any = None) -> Any:
        """Give an attribute, or `default` where it is not set."""
        return self.attributes.get(name, default)

    def number(self, name: str, default: float) -> float:
        """Give a float attribute, or `default` where it is not set."""
        return float(self.attributes.get(name, default))

    def whole(self, name: str, default: int) -> int:
        """Give an integer attribute, or `default` where it is not set."""
        return int(self.attributes.get(name, default))


def operator(*names: str, domain: str = "") -> Callable[[Function], Function]:
    """Register a function as the implementation of operators."""

    def register(function: Function) -> Function:
        _FUNCTIONS.update({(domain, name): function for name in names})
        return function

    return register


def implementation(node: Node) -> Function | None:
    """Find the function that computes `node`; None where there is none, or where the node uses what it lacks."""
    function = _FUNCTIONS.get((node.domain, node.operator))
    if function is None and not node.domain and node.operator in _CONTROL:
        return _control
    return None if function is None or _beyond(node) else function


def supported() -> tuple[str, ...]:
    """Every operator that can be computed, as `domain.Name` outside ONNX's own domain."""
    return tuple(sorted([f"{domain}.{name}" if domain else name for domain, name in _FUNCTIONS] + list(_CONTROL)))


def spell(node: Node) -> str:
    """Name a node's operator, with its domain where that is not ONNX's own, and what of it is not supported."""
    name = f"{node.domain}.{node.operator}" if node.domain else node.operator
    return f"{name} with {_beyond(node)}" if (node.domain, node.operator) in _FUNCTIONS and _beyond(node) else name


def to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """Turn an array of any ONNX dtype into a tensor; floats that NumPy lacks (bfloat16, float8) become float32."""
    kind = array.dtype
    if kind.kind not in "biufc":  # ml_dtypes: float8, bfloat16, int4
        array = array.astype(np.int8 if "int" in kind.name else np.float32)
    elif kind in (np.uint16, np.uint32, np.uint64):  # torch computes little in these
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, order="C"))


def integers(value: Tensor | None) -> list[int]:
    """Read a shape, axes or other list of integers; nothing where the input is left out."""
    return [] if value is None else [int(item) for item in value.reshape(-1).tolist()]


def _control(node: Node, *_: Tensor) -> tuple[Tensor, ...]:
    raise AssertionError(f"{node.operator} is run by the executor")


def _beyond(node: Node) -> str:
    """Say what of a known operator's node is not supported; empty where all is."""
    if node.operator == "Resize" and node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "keep_aspect_ratio_policy"
    if node.operator in ("Resize", "Upsample") and node.whole("antialias", 0):
        return "antialias"
    if node.operator == "MaxPool" and (len(node.outputs) > 1 and node.outputs[1]):
        return "Indices"
    if node.operator == "Dropout" and node.whole("is_test", 1) == 0:
        return "is_test=0"
    if node.operator in ("LSTM", "GRU", "RNN"):
        names = (name for name in node.get("activations") or () if name not in RECURRENT_ACTIVATIONS)
        return next((f"activation {name}" for name in names), "")
    return ""
