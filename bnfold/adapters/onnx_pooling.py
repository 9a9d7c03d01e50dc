"""Reading pooling, reductions, resampling and padding."""

from bnfold import ops
from bnfold.adapters.onnx_view import Part, Reading, View, reads

_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min"}
_GLOBAL = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}
_INTERPOLATIONS = ("nearest", "linear", "cubic", "bilinear")
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@reads("MaxPool")
def _max_pool(view: View) -> Reading:
    return ops.MaxPool()


@reads("AveragePool")
def _average_pool(view: View) -> Reading:
    """With count_include_pad the zeros of the padding are in the mean; also those beyond the edge of ceil_mode."""
    mode = view.text("auto_pad", "NOTSET")
    padded = any(view.numbers("pads") or ()) or mode.startswith("SAME") or view.number("ceil_mode") == 1
    return ops.AvgPool(counts_padding=view.number("count_include_pad") == 1 and padded)


@reads(*_GLOBAL)
def _global_pool(view: View) -> Reading:
    rank = view.rank()
    if rank is None:
        return None
    return ops.Reduce(_GLOBAL[view.node.proto.op_type], tuple(range(2, rank)), keepdims=True)


@reads(*_REDUCTIONS)
def _reduce(view: View) -> Reading:
    """The axes are an attribute up to opset 12 or 17, an operand from 13 or 18 on; none means all."""
    rank = view.rank()
    axes = view.ints(1, "axes")
    if rank is None or (axes is None and view.input(1)):
        return None
    if not axes:
        if view.number("noop_with_empty_axes") == 1:
            return Part(ops.Identity(), view.node.inputs[:1])
        axes = tuple(range(rank))
    if any(view.axis(axis) is None for axis in axes):
        return None
    kind, keep = _REDUCTIONS[view.node.proto.op_type], view.number("keepdims", 1) == 1
    return Part(ops.Reduce(kind, tuple(sorted(axis % rank for axis in axes)), keep), view.node.inputs[:1])


@reads("Resize", "Upsample")
def _resize(view: View) -> Reading:
    """tf_crop_and_resize puts a number where it looks beyond the edge."""
    inside = view.text("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
    known = view.text("mode", "nearest") in _INTERPOLATIONS
    return Part(ops.Resize(inside and known, _moved(view)), view.node.inputs[:1])


def _moved(view: View) -> tuple[int, ...]:
    """Find axes that may keep their length and are interpolated all the same: 5 * 1.1 is 5 again.

    With sizes in the place of scales, an axis of one length stays as it is. Of scales that are computed, those of batch
    and channels are taken for 1.
    """
    rank = view.rank() or 0
    every = tuple(range(2, rank))
    if view.node.kind == "Resize" and view.opset >= 11 and not view.input(2):
        stretched = view.text("keep_aspect_ratio_policy", "stretch") == "stretch"
        return () if stretched else every
    if view.has("scales"):  # Upsample before opset 9
        scales = view.reals("scales")
    else:
        known = view.constant(1 if view.opset < 11 else 2)
        if known is None or known.size > rank or known.name in view.held:
            return every
        scales = tuple(float(item) for item in known.load().reshape(-1))
    axes = view.numbers("axes") or tuple(range(len(scales)))
    return tuple(sorted(axis % rank for axis, scale in zip(axes, scales, strict=False) if scale != 1))


@reads("Pad")
def _pad(view: View) -> Reading:
    """Pads and value are attributes up to opset 10, operands from 11 on; axes came with 18."""
    rank, pads = view.rank(), view.ints(1, "pads")
    mode = _PAD_MODES.get(view.text("mode", "constant"))
    if rank is None or pads is None or mode is None:
        return None
    axes = view.ints(3) if view.input(3) else tuple(range(rank))
    if axes is None or len(pads) != 2 * len(axes) or any(view.axis(axis) is None for axis in axes):
        return None
    pairs = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        pairs[axis % rank] = (before, after)
    value = view.scalar(2) if view.input(2) else view.real("value", 0.0)
    if value is None and mode == "constant":
        return None
    return Part(ops.Pad(tuple(pairs), mode, value or 0.0), view.node.inputs[:1])
