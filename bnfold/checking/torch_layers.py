"""The linear layers of a model, in the order in which they run, and the audit of one model's against another's."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnfold.checking.audit import LinearLayer, Suspect, audit_layers
from bnfold.checking.measures import Array
from bnfold.checking.result import AuditRow
from bnfold.checking.subject import Feed, Subject
from bnfold.checking.torch_module import ModuleSubject, to_tensors
from bnfold.checking.torch_onnx import OnnxSubject
from bnfold.checking.torch_ops import Node
from bnfold.checking.torch_values import Value, sums_of, values_of
from bnfold.checking.trial import Trial
from bnfold.errors import UnverifiedError

_SAME = 3e-7  # a channel whose float64 values agree to this was computed by weights that differ by their rounding
_MODULES = (nn.modules.conv._ConvNd, nn.Linear)


def derived_audit(trial: Trial) -> tuple[AuditRow, ...]:
    """Audit the candidate's weights against the reference's: the worst row of each layer, and every wrong one."""
    if trial.typical is None:
        return ()
    feed = trial.typical.feed
    try:
        ours, theirs = layers_of(trial.reference, feed), layers_of(trial.candidate, trial.feed(feed))
        found = list(audit_layers(ours, theirs))
        wrong = [suspect for row, suspect in found if not row.passed]
        confirmed = _confirmed(trial, feed, wrong) if wrong else []
    except (UnverifiedError, RuntimeError, ValueError):
        return ()
    kept: dict[str, AuditRow] = {}
    for row, _ in found:
        if row.passed and (row.layer not in kept or row.ulp > kept[row.layer].ulp):
            kept[row.layer] = row
    return (*confirmed, *kept.values())


def _confirmed(trial: Trial, feed: Feed, suspects: list[Suspect]) -> list[AuditRow]:
    """Drop channels whose values are right: merged layers hold weights that no single layer of the reference has."""
    truth = values_of(trial.reference, feed)
    sums = sums_of(trial.reference, feed)
    theirs = values_of(trial.candidate, trial.feed(feed))
    return [
        suspect.row
        for suspect in suspects
        if not _somewhere(truth, theirs[suspect.candidate.value], suspect, framed=False)
        and not _somewhere(sums, theirs[suspect.candidate.value], suspect, framed=True)
    ]


def _somewhere(truth: Mapping[str, Value], value: Value, suspect: Suspect, *, framed: bool) -> bool:
    """Whether some value of the reference has this channel; framed: up to a scale and a shift of its own."""
    axis = -1 if value.operator in ("MatMul", "Linear") else 1
    mine = np.take(value.array, suspect.row.channel, axis)
    agrees = _is_affine_of if framed else _is_same
    return any(
        agrees(mine, np.take(other.array, suspect.row.channel, axis))
        for other in truth.values()
        if other.array.shape == value.array.shape
    )


def _is_same(mine: Array, other: Array) -> bool:
    return float(np.linalg.norm(other - mine)) <= _SAME * float(np.linalg.norm(mine))


def _is_affine_of(mine: Array, other: Array) -> bool:
    """Whether other = a * mine + d, for the a and d that fit best: a fold holds what lies on a trunk in such frames."""
    centred, wanted = mine - mine.mean(), other - other.mean()
    spread = float(np.vdot(centred, centred))
    slope = float(np.vdot(centred, wanted)) / spread if spread > 0 else 0.0
    size = max(float(np.linalg.norm(other)), abs(slope) * float(np.linalg.norm(mine)))
    return slope != 0 and float(np.linalg.norm(wanted - slope * centred)) <= _SAME * size


def layers_of(subject: Subject, feed: Feed) -> list[LinearLayer]:
    """Give the linear layers with constant weights, in running order."""
    if isinstance(subject, OnnxSubject):
        return _of_onnx(subject, feed)
    if isinstance(subject, ModuleSubject):
        return _of_module(subject, feed)
    raise UnverifiedError(f"{subject.label} tells nothing of its layers")


def _of_onnx(subject: OnnxSubject, feed: Feed) -> list[LinearLayer]:
    fed = {spec.name for spec in subject.inputs}
    found: list[LinearLayer] = []

    def look(node: Node, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
        if fed.intersection(node.inputs):
            fed.update(node.outputs)
        weight = _weight(node, inputs)
        if weight is not None and node.inputs[1] not in fed:
            groups = node.whole("group", 1) if node.operator != "Gemm" else 1
            name = node.name or node.outputs[0]
            found.append(LinearLayer(name, node.outputs[0], weight, groups, subject.dtype))

    names = [spec.name for spec in subject.inputs]
    with torch.no_grad():
        subject.executor.run(dict(zip(names, to_tensors(feed, torch.float64), strict=True)), watch=look)
    return found


def _weight(node: Node, inputs: tuple[Tensor | None, ...]) -> Array | None:
    if node.domain or len(inputs) < 2 or inputs[1] is None:
        return None
    weight = inputs[1].detach().double().numpy()
    if node.operator == "Conv":
        return weight
    if node.operator == "ConvTranspose":
        return rows_first(weight, node.whole("group", 1))
    if node.operator == "Gemm":
        return weight if node.whole("transB", 0) else weight.T
    return weight.T if node.operator == "MatMul" and weight.ndim == 2 else None


def _of_module(subject: ModuleSubject, feed: Feed) -> list[LinearLayer]:
    found: list[LinearLayer] = []

    def hook(name: str) -> Any:
        def look(child: nn.Module, *_: Any) -> None:
            weight = child.weight.detach().double().numpy()  # type: ignore[operator]
            groups = int(getattr(child, "groups", 1))
            if getattr(child, "transposed", False):
                weight = rows_first(weight, groups)
            found.append(LinearLayer(name, name, weight, groups, subject.dtype))

        return look

    handles = [
        child.register_forward_hook(hook(name))
        for name, child in subject.double.named_modules()
        if isinstance(child, _MODULES)
    ]
    try:
        subject.truth(feed)
    finally:
        for handle in handles:
            handle.remove()
    return found


def rows_first(weight: Array, groups: int) -> Array:
    """(in, out / groups, *kernel) of a transposed convolution -> (out, in / groups, *kernel)."""
    blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return np.concatenate([block.swapaxes(0, 1) for block in blocks])
