"""A model run in float64 under a tracer, whose values bear the names of ONNX nodes or of modules."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bnfold.checking.subject import Feed, Subject
from bnfold.checking.torch_modes import as_written
from bnfold.checking.torch_module import ModuleSubject, UpcastMode, to_tensors
from bnfold.checking.torch_onnx import OnnxSubject
from bnfold.checking.torch_ops import Node
from bnfold.checking.torch_outputs import flatten
from bnfold.checking.torch_trace import Tracer
from bnfold.errors import UnverifiedError

_MOVES = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity",
     "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)  # fmt: skip


def follow(tracer: Tracer, subject: Subject, feed: Feed) -> dict[str, Tensor]:
    """Run `subject` in float64 with `tracer` on; gives its outputs by name."""
    tensors = to_tensors(feed, torch.float64)
    tracer.feed(tensors)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(subject, OnnxSubject):
            return _follow_onnx(tracer, subject, tensors)
        if isinstance(subject, ModuleSubject):
            return _follow_module(tracer, subject, tensors)
    raise UnverifiedError(f"{subject.label} tells nothing of the values inside it")


def dtypes_of(subject: Subject) -> dict[int, str]:
    """Give the dtype in which each constant of the float64 form is stored, by its id."""
    if isinstance(subject, OnnxSubject):
        return subject.stored_dtypes()
    if isinstance(subject, ModuleSubject):
        stored = dict([*subject.module.named_parameters(), *subject.module.named_buffers()])
        own = [*subject.double.named_parameters(), *subject.double.named_buffers()]
        return {id(tensor): str(stored[name].dtype).removeprefix("torch.") for name, tensor in own if name in stored}
    return {}


def _follow_onnx(tracer: Tracer, subject: OnnxSubject, tensors: list[Tensor]) -> dict[str, Tensor]:
    done = 0

    def look(node: Node, _: tuple[Tensor | None, ...], made: tuple[Tensor, ...]) -> None:
        nonlocal done
        if node.operator not in _MOVES:
            tracer.computes(made)
        for value in tracer.trace.values[done:]:
            value.layer = node.name
        done = len(tracer.trace.values)

    tracer.arithmetic = False  # an operator's own, such as a BatchNormalization's
    done = len(tracer.trace.values)
    names = [spec.name for spec in subject.inputs]
    executor = subject.executor
    with tracer:
        return executor.run(dict(zip(names, tensors, strict=True)), watch=look)


def _follow_module(tracer: Tracer, subject: ModuleSubject, tensors: list[Tensor]) -> dict[str, Tensor]:
    with _named(tracer, subject.double), as_written(), UpcastMode(), tracer:
        outputs = subject.double(*tensors)
    return flatten(outputs)


@contextlib.contextmanager
def _named(tracer: Tracer, module: nn.Module) -> Iterator[None]:
    """Let values bear the path of the innermost module that is running."""
    running: list[str] = []
    handles = []

    def enters(name: str) -> Any:
        return lambda *_: running.append(name)

    def leaves(*_: Any) -> None:
        running.pop()

    for name, child in module.named_modules():
        handles += [child.register_forward_pre_hook(enters(name)), child.register_forward_hook(leaves)]
    tracer.where = lambda: running[-1] if running else ""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
