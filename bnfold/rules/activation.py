"""Elementwise operators that bend: what is positively homogeneous passes a positive scale, a clip moves its bounds."""

import math

import numpy as np

from bnfold.affine import Affine, Floats, Frames
from bnfold.ops import Abs, Cast, ChannelClip, Clip, Identity, LeakyRelu, PRelu, Relu
from bnfold.plan import Edit, ReplaceByClip, SetBounds, SetConstants
from bnfold.relation import Carried, Pinned, Site, Tie
from bnfold.rules.base import FLOATS, frame_of, pinned, rewritten, ties
from bnfold.views import Kept
from bnfold.why import Why

SAME = Kept(frozenset())  # every axis is where it was


@ties.register(LeakyRelu)
@ties.register(Abs)
def _bend(op: LeakyRelu | Abs, site: Site) -> tuple[Tie, ...]:
    """f(a x) == a f(x), for a > 0."""
    return (Carried(site.x, site.y, SAME, positive=Why.ORDER, still=Why.KINK),)


@ties.register(PRelu)
def _p_relu(op: PRelu, site: Site) -> tuple[Tie, ...]:
    """The slopes stay as they are: f(a x) == a f(x), for a > 0 and any slopes."""
    bend = Carried(site.x, site.y, SAME, positive=Why.ORDER, still=Why.KINK)
    slope = site.input(1)
    return (bend, Pinned((slope,), Why.COMPUTED)) if slope in site.graph.values else (bend,)


@ties.register(Relu)
def _relu(op: Relu, site: Site) -> tuple[Tie, ...]:
    """max(a x + d, 0) == a clip(x) + d, bounded by -d / a: a plain ReLU where a > 0 and d == 0."""
    if site.relaxed and site.tensors:
        return (Carried(site.x, site.y, SAME),)
    return (Carried(site.x, site.y, SAME, positive=Why.ORDER, still=Why.KINK),)


@rewritten.register(Relu)
def _rewrite_relu(op: Relu, site: Site, frames: Frames) -> tuple[Edit, ...]:
    return _clip_by_channel(site, frames, 0, math.inf)


@ties.register(Clip)
def _clip(op: Clip, site: Site) -> tuple[Tie, ...]:
    """clip(a x + d, lo, hi) == a clip(x, (lo - d) / a, (hi - d) / a) + d; a < 0 swaps the bounds.

    With lo > hi it is the constant hi (min is taken last), and swapped bounds would make it lo.
    """
    low, high = _bounds(op)
    if not low <= high:
        return pinned(site, Why.BOUNDS)
    if (low, high) == (-math.inf, math.inf) or (site.relaxed and site.tensors):
        return (Carried(site.x, site.y, SAME),)
    if site.relaxed:
        return (Carried(site.x, site.y, SAME, uniform=Why.BOUNDS),)
    if {low, high} <= {0.0, math.inf, -math.inf}:
        return (Carried(site.x, site.y, SAME, positive=Why.ORDER, still=Why.KINK),)
    return pinned(site, Why.BOUNDS)


@rewritten.register(Clip)
def _rewrite_clip(op: Clip, site: Site, frames: Frames) -> tuple[Edit, ...]:
    return _clip_by_channel(site, frames, *_bounds(op))


@ties.register(ChannelClip)
def _channel_clip(op: ChannelClip, site: Site) -> tuple[Tie, ...]:
    low, high = site.constant(1), site.constant(2)
    if low is None or high is None:
        return pinned(site, Why.COMPUTED)
    if not np.all(low.load() <= high.load()):
        return pinned(site, Why.BOUNDS)
    others = frozenset(range(len(site.shape(site.x)))) - {op.axis}
    sides = None if site.relaxed and site.tensors else site.node.limits.get("sides")
    return (Carried(site.x, site.y, Kept(others), positive=sides, lost=Why.BOUNDS),)


@rewritten.register(ChannelClip)
def _rewrite_channel_clip(op: ChannelClip, site: Site, frames: Frames) -> tuple[Edit, ...]:
    low, high = (constant.load() for index in (1, 2) if (constant := site.constant(index)) is not None)
    frame = frame_of(frames, site.x, op.axis, len(low))
    if frame.is_identity:
        return ()
    lo, hi = _moved(frame, low, high)
    return (SetConstants(site.node.name, {1: lo, 2: hi}),)


@ties.register(Identity)
def _identity(op: Identity, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, SAME),)


@ties.register(Cast)
def _cast(op: Cast, site: Site) -> tuple[Tie, ...]:
    """A wider float holds every number of a narrower one, so a widening cast commutes with any affine."""
    if site.x not in site.graph.values:
        return pinned(site, Why.NO_RULE)
    before, after = (site.graph.values[name].dtype for name in (site.x, site.y))
    if before not in FLOATS or after not in FLOATS:
        return pinned(site, Why.NO_RULE)
    if before == after or after == "float64" or (after == "float32" and before != "float64"):
        return (Carried(site.x, site.y, SAME),)
    return pinned(site, Why.NARROWS)


def _bounds(op: Clip) -> tuple[float, float]:
    return (-math.inf if op.lo is None else op.lo), (math.inf if op.hi is None else op.hi)


def _moved(frame: Affine, low: float | Floats, high: float | Floats) -> tuple[Floats, Floats]:
    """Move the bounds of x to those of x', channel by channel."""
    first, second = (low - frame.shift) / frame.scale, (high - frame.shift) / frame.scale
    return np.minimum(first, second), np.maximum(first, second)


def _clip_by_channel(site: Site, frames: Frames, low: float, high: float) -> tuple[Edit, ...]:
    """Bound x' where the frame moves the bounds: by two numbers where those do, else channel by channel."""
    frame = frames.get(site.x)
    if frame is None or frame.is_identity:
        return ()
    lo, hi = _moved(frame, low, high)
    if np.all(lo == low) and np.all(hi == high):
        return ()
    if isinstance(site.node.op, Clip) and _alike(lo) and _alike(hi):
        return (SetBounds(site.node.name, _finite(lo[0]), _finite(hi[0])),)
    return (ReplaceByClip(site.node.name, frame.axis, lo, hi),)


def _alike(bounds: Floats) -> bool:
    """Whether they are one number, but for the rounding of frames that are demanded to be equal."""
    return bool(np.allclose(bounds, bounds[0], rtol=1e-12, atol=0))


def _finite(bound: float) -> float | None:
    return float(bound) if math.isfinite(bound) else None
