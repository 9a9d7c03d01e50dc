"""Per-channel affines with constants. A folded one vanishes into the frames; a kept one absorbs them like a conv.

Put x = a_x x' + d_x and y = a_y y' + d_y into y = s x + t:

    s' = s a_x / a_y        t' = (s d_x + t - d_y) / a_y
"""

import numpy as np

from bnfold import ops
from bnfold.affine import Affine, Floats, Frames, of_batch_norm
from bnfold.ops import BatchNorm
from bnfold.plan import Edit, SetConstants
from bnfold.relation import Mapped, Site, Tie
from bnfold.rules.base import frame_of, pinned, rewritten, ties
from bnfold.why import Why

GAMMA, BETA, MEAN, VARIANCE = 1, 2, 3, 4  # operands of a BatchNorm
SCALE, SHIFT = 1, 2  # operands of an Affine


def affine_of(site: Site) -> Affine:
    """Compute the map of a BatchNorm or an Affine whose operands are constants, in float64.

    It may hold infinities and NaN, where the statistics do: it is for the caller to refuse them.
    """
    if isinstance(site.node.op, BatchNorm):
        mean, variance = _load(site, MEAN), _load(site, VARIANCE)
        gamma = _load(site, GAMMA) if site.constant(GAMMA) is not None else np.ones_like(mean)
        beta = _load(site, BETA) if site.constant(BETA) is not None else np.zeros_like(mean)
        with np.errstate(all="ignore"):
            return of_batch_norm(1, gamma, beta, mean, variance, site.node.op.eps)
    assert isinstance(site.node.op, ops.Affine), f"{site.node.name} is no affine"
    return Affine(site.node.op.axis, _load(site, SCALE), _load(site, SHIFT))


def _load(site: Site, index: int, absent: Floats | None = None) -> Floats:
    constant = site.constant(index)
    if constant is not None:
        return constant.load()
    assert absent is not None, f"{site.node.name}: operand {index} is no constant"
    return absent


@ties.register(BatchNorm)
def _batch_norm(op: BatchNorm, site: Site) -> tuple[Tie, ...]:
    computed = not site.graph.values.keys().isdisjoint(site.node.inputs[GAMMA : VARIANCE + 1])
    if computed or site.constant(MEAN) is None or site.constant(VARIANCE) is None:
        return pinned(site, Why.COMPUTED)
    return (Mapped(site.x, site.y, 1),)


@ties.register(ops.Affine)
def _affine(op: ops.Affine, site: Site) -> tuple[Tie, ...]:
    if site.constant(SCALE) is None or site.constant(SHIFT) is None:
        return pinned(site, Why.COMPUTED)
    return (Mapped(site.x, site.y, op.axis),)


@rewritten.register(BatchNorm)
def _rewrite_batch_norm(op: BatchNorm, site: Site, frames: Frames) -> tuple[Edit, ...]:
    """Mean and variance stay those of the input, in its new unit; gamma makes up for what eps means beside that."""
    if all(name not in frames or frames[name].is_identity for name in (site.x, site.y)):
        return ()  # as for a BatchNorm without statistics, whose frames are held
    mean = _load(site, MEAN)
    before, after = _around(site, 1, len(mean), frames)
    gamma = _load(site, GAMMA, np.ones_like(mean)) * before.scale / after.scale
    new: dict[int, Floats] = {}
    if np.any(before.scale != after.scale):
        new[GAMMA] = gamma
    if np.any(np.abs(before.scale) != 1) and (GAMMA in new or site.constant(GAMMA) is not None):
        variance = _variance_of(site, before)
        if variance is not None:
            old = _load(site, VARIANCE)
            new[VARIANCE] = variance
            new[GAMMA] = gamma * np.sqrt((variance + op.eps) / (old + op.eps))
    if not after.is_identity:
        beta = (_load(site, BETA, np.zeros_like(mean)) - after.shift) / after.scale
        if site.constant(BETA) is not None or np.any(beta != 0):
            new[BETA] = beta
    if not before.is_identity:
        new[MEAN] = (mean - before.shift) / before.scale
    return (SetConstants(site.node.name, new),) if new else ()


def _variance_of(site: Site, before: Affine) -> Floats | None:
    """Give the variance of the input in its frame, as it is stored; None in half precision, or out of range."""
    assert isinstance(site.node.op, BatchNorm)
    constant = site.constant(VARIANCE)
    if constant is None or constant.dtype not in ("float32", "float64"):
        return None
    with np.errstate(all="ignore"):
        variance: Floats = (constant.load() / before.scale**2).astype(constant.dtype).astype(np.float64)
    return variance if np.all(np.isfinite(variance) & (variance + site.node.op.eps > 0)) else None


@rewritten.register(ops.Affine)
def _rewrite_affine(op: ops.Affine, site: Site, frames: Frames) -> tuple[Edit, ...]:
    scale, shift = _load(site, SCALE), _load(site, SHIFT)
    before, after = _around(site, op.axis, len(scale), frames)
    if before.is_identity and after.is_identity:
        return ()
    new = {
        SCALE: scale * before.scale / after.scale,
        SHIFT: (scale * before.shift + shift - after.shift) / after.scale,
    }
    return (SetConstants(site.node.name, new),)


def _around(site: Site, axis: int, channels: int, frames: Frames) -> tuple[Affine, Affine]:
    return frame_of(frames, site.x, axis, channels), frame_of(frames, site.y, axis, channels)
