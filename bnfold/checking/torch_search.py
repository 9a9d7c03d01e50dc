"""Gradient ascent for the input that tells two models apart most, in float64 and within the input's range."""

import numpy as np
import torch
from torch import Tensor

from bnfold.checking.inputs import Sample, numpy_dtype
from bnfold.checking.subject import Feed, Subject
from bnfold.checking.torch_modes import as_written
from bnfold.checking.torch_module import ModuleSubject, UpcastMode, to_tensors
from bnfold.checking.torch_onnx import OnnxSubject
from bnfold.checking.torch_outputs import flatten
from bnfold.checking.trial import Trial
from bnfold.errors import UnverifiedError

_RANGE = 4.0  # in standard deviations of the starting point
_STEP = 0.05  # of the range


def search(trial: Trial, steps: int) -> Sample | str:
    """Climb from the most telling sample; give what was found, or say why there was no search."""
    assert trial.telling is not None
    start = trial.telling.feed
    if not any(np.issubdtype(array.dtype, np.floating) for array in start):
        return "no search: the model has no float input"
    try:
        feed = _climb(trial, start, steps)
    except (UnverifiedError, RuntimeError, ValueError) as error:
        return f"no search: {str(error).splitlines()[0]}"
    return Sample(f"search/{trial.candidate.label}", "search", feed)


def _climb(trial: Trial, start: Feed, steps: int) -> Feed:
    """Take the first step to the corner where a linear model's optimum is, and shorter ones from there."""
    points = to_tensors(start, torch.float64)
    floats = [point for point in points if point.is_floating_point()]
    wide = to_tensors(trial.wide.feed if trial.wide is not None else start, torch.float64)
    bounds = [_bound(start, drawn) for start, drawn in zip(points, wide, strict=True) if start.is_floating_point()]
    generator = torch.Generator().manual_seed(0)
    for point in floats:
        point.requires_grad_()
    best, best_gap = [point.detach().clone() for point in points], -1.0
    for step in range(steps + 1):
        gap = _gap(trial, points)
        if gap.item() > best_gap:
            best, best_gap = [point.detach().clone() for point in points], gap.item()
        length = max(2 * 0.5**step, _STEP)
        gradients = torch.autograd.grad(torch.log(gap + 1e-300), floats, allow_unused=True) if gap > 0 else ()
        with torch.no_grad():
            for i, (point, bound) in enumerate(zip(floats, bounds, strict=True)):
                uphill = gradients[i] if gradients else None
                if uphill is None or not bool(uphill.any()):
                    # What is shut lets no gradient through; another corner may open it.
                    point.copy_(bound * torch.randn(point.shape, generator=generator, dtype=point.dtype).sign())
                else:
                    # Steepest ascent within a box: every number takes the same step.
                    point += length * bound * uphill.sign()
                    point.clamp_(-bound, bound)
    return tuple(
        tensor.numpy().astype(numpy_dtype(spec.dtype)) if tensor.is_floating_point() else tensor.numpy()
        for tensor, spec in zip(best, trial.reference.inputs, strict=True)
    )


def _bound(start: Tensor, wide: Tensor) -> float:
    """The input's range: what the widest sample has of it, or some deviations of the one that is climbed from."""
    spread = float(start.std()) if start.numel() > 1 else 0.0
    return max(_RANGE * spread, float(wide.abs().max()) if wide.numel() else 0.0) or 1.0


def _gap(trial: Trial, points: list[Tensor]) -> Tensor:
    """Squared difference relative to the truth, summed over the outputs.

    The truth counts as no quieter than the reference's typical output: where it vanishes, so does what is allowed.
    """
    truth = differentiable(trial.reference, points)
    theirs = differentiable(trial.candidate, [points[i] for i in trial.order])
    total = points[0].new_zeros(())
    for name, comparison in trial.comparisons.items():
        a, b = truth.get(name), theirs.get(comparison.candidate_name)
        if a is not None and b is not None and a.is_floating_point() and a.shape == b.shape:
            typical = comparison.reference.scale if comparison.reference.count else 0.0
            total = total + (a - b).square().sum() / a.square().sum().clamp(min=max(a.numel() * typical**2, 1e-300))
    return total


def differentiable(subject: Subject, points: list[Tensor]) -> dict[str, Tensor]:
    """Run in float64, keeping the graph of gradients."""
    if isinstance(subject, OnnxSubject):
        names = [spec.name for spec in subject.inputs]
        return subject.executor.run(dict(zip(names, points, strict=True)))
    if not isinstance(subject, ModuleSubject):
        raise UnverifiedError(f"{subject.label} can't be differentiated")
    with as_written(), UpcastMode():
        return flatten(subject.double(*points))
