"""What the inputs reached in the reference: channels that varied, and both sides of every activation's kinks."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnfold.checking.result import Coverage, LayerCoverage
from bnfold.checking.torch_modes import Mode
from bnfold.checking.torch_ops import Node

# Operator -> where its branches part, given its input and its other arguments.
_ONNX_KINKS: dict[str, Callable[[Node, Sequence[Tensor | None]], tuple[float, ...]]] = {
    "Relu": lambda node, _: (0.0,),
    "LeakyRelu": lambda node, _: (0.0,),
    "PRelu": lambda node, _: (0.0,),
    "Abs": lambda node, _: (0.0,),
    "Elu": lambda node, _: (0.0,),
    "HardSwish": lambda node, _: (-3.0, 3.0),
    "HardSigmoid": lambda node, _: (-2.5, 2.5),
    "ThresholdedRelu": lambda node, _: (node.number("alpha", 1.0),),
    "Clip": lambda node, rest: _bounds(node, rest),
    "Sigmoid": lambda node, _: (),
    "Tanh": lambda node, _: (),
    "Gelu": lambda node, _: (),
}
_ATEN_KINKS: dict[str, Callable[[Sequence[Any]], tuple[float, ...]]] = {
    "aten::relu": lambda _: (0.0,),
    "aten::relu_": lambda _: (0.0,),
    "aten::leaky_relu": lambda _: (0.0,),
    "aten::leaky_relu_": lambda _: (0.0,),
    "aten::_prelu_kernel": lambda _: (0.0,),
    "aten::elu": lambda _: (0.0,),
    "aten::hardtanh": lambda rest: (float(rest[0]), float(rest[1])) if len(rest) > 1 else (-1.0, 1.0),
    "aten::hardtanh_": lambda rest: (float(rest[0]), float(rest[1])) if len(rest) > 1 else (-1.0, 1.0),
    "aten::hardswish": lambda _: (-3.0, 3.0),
    "aten::hardsigmoid": lambda _: (-3.0, 3.0),
    "aten::sigmoid": lambda _: (),
    "aten::tanh": lambda _: (),
    "aten::gelu": lambda _: (),
    "aten::silu": lambda _: (),
}


@dataclass
class _Layer:
    operator: str
    reached: Tensor  # (branches, channels), bool
    low: Tensor
    high: Tensor


class Recorder:
    """Collects coverage while it is entered; calls of one forward number its layers."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}
        self.enabled = False

    def __enter__(self) -> "Recorder":
        self.enabled = True
        return self

    def __exit__(self, *_: object) -> None:
        self.enabled = False

    def watch(self, node: Node, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
        """Take in one node of an ONNX model (see `Executor.run`)."""
        kinks = _ONNX_KINKS.get(node.operator) if not node.domain else None
        if self.enabled and kinks is not None and inputs[0] is not None:
            self.add(node.name, node.operator, inputs[0], kinks(node, inputs[1:]))

    def mode(self) -> "_Mode":
        """Give the context in which a module's activations are taken in."""
        return _Mode(self)

    def add(self, layer: str, operator: str, x: Tensor, kinks: tuple[float, ...]) -> None:
        """Take in one activation's input; channels on axis 1."""
        if x.ndim < 2 or not x.numel() or not x.is_floating_point():
            return
        flat = x.detach().movedim(1, 0).reshape(x.shape[1], -1)
        bounds = (-torch.inf, *kinks, torch.inf)
        reached = torch.stack([((flat > a) & (flat <= b)).any(1) for a, b in itertools.pairwise(bounds)])
        odd = flat.isnan()  # which is neither low nor high
        low, high = flat.masked_fill(odd, torch.inf).amin(1), flat.masked_fill(odd, -torch.inf).amax(1)
        fresh = _Layer(operator, reached, low, high)
        known = self._layers.get(layer)
        if known is None or known.reached.shape != reached.shape:
            self._layers[layer] = fresh
            return
        known.reached |= reached
        known.low, known.high = torch.minimum(known.low, fresh.low), torch.maximum(known.high, fresh.high)

    def coverage(self) -> Coverage:
        """Sum up."""
        return Coverage(
            tuple(
                LayerCoverage(
                    layer=name,
                    operator=layer.operator,
                    channels=layer.low.numel(),
                    channels_reached=int((layer.high > layer.low).sum()),
                    branches=layer.reached.numel(),
                    branches_reached=int(layer.reached.sum()),
                )
                for name, layer in self._layers.items()
            )
        )


class _Mode(Mode):  # type: ignore[no-untyped-call]
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder, self._calls = recorder, 0

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = func._schema.name
        if self._recorder.enabled and name in _ATEN_KINKS:
            short = name.removeprefix("aten::").strip("_")
            self._recorder.add(f"{short} {self._calls}", short, args[0], _ATEN_KINKS[name](args[1:]))
            self._calls += 1
        return func(*args, **kwargs)


def _bounds(node: Node, rest: Sequence[Tensor | None]) -> tuple[float, ...]:
    if node.opset < 11:
        given = [node.get("min"), node.get("max")]
    else:
        given = [None if bound is None else bound.item() for bound in rest[:2]]
    return tuple(float(bound) for bound in given if bound is not None)
