"""Every value inside a model, with the node or module that gave it: what localisation lays side by side."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnfold.checking.subject import Array, Feed, Subject
from bnfold.checking.torch_executor import Executor
from bnfold.checking.torch_module import ModuleSubject, copy_module, to_tensors
from bnfold.checking.torch_onnx import OnnxSubject
from bnfold.checking.torch_ops import Node
from bnfold.checking.torch_outputs import flatten
from bnfold.errors import UnverifiedError


@dataclass(frozen=True)
class Value:
    """One float tensor inside a model: its name, what made it, and its numbers in float64."""

    name: str
    layer: str
    operator: str
    array: Array


def values_of(subject: Subject, feed: Feed, dtype: torch.dtype = torch.float64) -> Mapping[str, Value]:
    """Run `subject` in `dtype` (float64 or float32) and give every float value in the order in which they come.

    An ONNX value bears its own name, a module's output the module's path.
    """
    if isinstance(subject, OnnxSubject):
        return _of_onnx(subject, feed, dtype)
    if isinstance(subject, ModuleSubject):
        return _of_module(subject, feed, dtype)
    raise UnverifiedError(f"{subject.label} tells nothing of the values inside it")


def _of_onnx(subject: OnnxSubject, feed: Feed, dtype: torch.dtype) -> Mapping[str, Value]:
    found: dict[str, Value] = {}

    def look(node: Node, _: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
        for name, tensor in zip(node.outputs, outputs, strict=False):
            if name and tensor.is_floating_point() and node.inputs:
                found[name] = Value(name, node.name, node.operator, tensor.detach().double().numpy())

    executor = subject.executor if dtype is torch.float64 else Executor(subject.model, dtype)
    names = [spec.name for spec in subject.inputs]
    with torch.no_grad():
        executor.run(dict(zip(names, to_tensors(feed, dtype), strict=True)), watch=look)
    return found


def _of_module(subject: ModuleSubject, feed: Feed, dtype: torch.dtype) -> Mapping[str, Value]:
    found: dict[str, Value] = {}
    module = subject.double if dtype is torch.float64 else copy_module(subject.module).to(dtype)

    def hook(name: str) -> Any:
        def look(child: nn.Module, _: Any, output: Any) -> None:
            for part, tensor in flatten(output, name).items():
                if tensor.is_floating_point():
                    # A copy: an activation in place would overwrite it.
                    array = np.array(tensor.detach().double().numpy())
                    found[part] = Value(part, name, type(child).__name__, array)

        return look

    handles = [
        child.register_forward_hook(hook(name or "output"))
        for name, child in module.named_modules()
        if not name or not list(child.children())
    ]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module(*to_tensors(feed, dtype))
    finally:
        for handle in handles:
            handle.remove()
    return found
