"""Activations of ATen, and what leaves numbers as they are."""

import torch
from torch import fx

from bnfold import ops
from bnfold.adapters.torch_call import Call, Derived, Draft, dtype_of, is_tensor, length, reads, shape_of


@reads("relu.default")
def _relu(call: Call) -> Draft:
    return Draft(ops.Relu(), (call.x,))


@reads("leaky_relu.default")
def _leaky_relu(call: Call) -> Draft:
    return Draft(ops.LeakyRelu(float(call["negative_slope"])), (call.x,))


@reads("rrelu.default")
def _rrelu(call: Call) -> Draft | None:
    """In eval mode it is a LeakyReLU with the mean of the two bounds."""
    if call["training"]:
        return None
    return Draft(ops.LeakyRelu((float(call["lower"]) + float(call["upper"])) / 2), (call.x,))


@reads("prelu.default")
def _prelu(call: Call) -> Draft:
    """The slopes (C,) stand on axis 1; NumPy aligns (C, 1, ...) with it."""
    count = length(shape_of(call["weight"])[0])
    shape = (count, *[1] * max(call.rank - 2, 0)) if call.rank >= 2 else (count,)
    return Draft(ops.PRelu(), (call.x, Derived(call["weight"], shape)))


def _extrema(kind: str, *targets: str) -> None:
    @reads(*targets)
    def _extremum(call: Call) -> Draft | None:
        operands = call["self"], call["other"]
        return Draft(ops.Extremum(kind), operands) if all(map(is_tensor, operands)) else None


_extrema("max", "maximum.default", "max.other", "fmax.default")
_extrema("min", "minimum.default", "min.other", "fmin.default")


@reads("abs.default")
def _abs(call: Call) -> Draft | None:
    return Draft(ops.Abs(), (call.x,)) if dtype_of(call.x).is_floating_point else None


@reads("relu6.default")
def _relu6(call: Call) -> Draft:
    return Draft(ops.Clip(0.0, 6.0), (call.x,))


@reads("hardtanh.default")
def _hardtanh(call: Call) -> Draft:
    return Draft(ops.Clip(float(call["min_val"]), float(call["max_val"])), (call.x,))


@reads("clamp.default", "clip.default", "clamp_min.default", "clamp_max.default")
def _clamp(call: Call) -> Draft | None:
    if not dtype_of(call.x).is_floating_point:
        return None
    lo, hi = call.arguments.get("min"), call.arguments.get("max")
    bounds = (None if lo is None else float(lo), None if hi is None else float(hi))
    if bounds == (0.0, None):
        return Draft(ops.Relu(), (call.x,))
    return Draft(ops.Clip(*bounds), (call.x,))


@reads("clamp.Tensor")
def _channel_clip(call: Call) -> Draft | None:
    """Bounds (C, 1, ..., 1), as a `ChannelClip` has them."""
    lo, hi = call.arguments.get("min"), call.arguments.get("max")
    if not (isinstance(lo, fx.Node) and isinstance(hi, fx.Node)) or shape_of(lo) != shape_of(hi):
        return None
    count, *ones = shape_of(lo) or (None,)
    if not isinstance(count, int) or any(size != 1 for size in ones):
        return None
    bounds = (Derived(bound, (count,)) for bound in (lo, hi))
    return Draft(ops.ChannelClip(call.rank - 1 - len(ones)), (call.x, *bounds))


@reads("dropout.default", "feature_dropout.default", "alpha_dropout.default", "feature_alpha_dropout.default")
def _dropout(call: Call) -> Draft | None:
    return None if call["train"] else Draft(ops.Identity(), (call.x,))


@reads(
    "clone.default",
    "contiguous.default",
    "detach.default",
    "alias.default",
    "lift_fresh_copy.default",
    "lift_fresh.default",
    "positive.default",
)
def _identity(call: Call) -> Draft:
    return Draft(ops.Identity(), (call.x,))


@reads("to.dtype", "to.dtype_layout", "to.device", "to.other", "_to_copy.default", "type_as.default")
def _to(call: Call) -> Draft | None:
    value = call.node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not is_tensor(call.x):
        return None
    before, after = dtype_of(call.x), value.dtype
    if before == after:
        return Draft(ops.Identity(), (call.x,))
    return Draft(ops.Cast(), (call.x,)) if before.is_floating_point and after.is_floating_point else None
