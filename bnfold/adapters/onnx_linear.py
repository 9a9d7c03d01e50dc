"""Reading linear operators and BatchNormalization."""

import math

from bnfold import ops
from bnfold.adapters.onnx_constants import Known, dequantized
from bnfold.adapters.onnx_tensors import FLOATS
from bnfold.adapters.onnx_view import MisreadError, Part, Reading, View, reads
from bnfold.graph import Dim
from bnfold.ops import Pads
from bnfold.why import Why


@reads("Conv")
def _conv(view: View) -> Reading:
    spatial = _spatial(view)
    if spatial is None:
        return None
    op = ops.Conv(
        strides=view.numbers("strides", spatial) or (1,) * spatial,
        dilations=view.numbers("dilations", spatial) or (1,) * spatial,
        pads=_same_pads(view, spatial) or _pads(view, spatial),
        groups=view.number("group", 1),
    )
    return Part(op, limits=_limits(view, 1, 2, 0))


@reads("ConvTranspose")
def _conv_transpose(view: View) -> Reading:
    spatial = _spatial(view)
    if spatial is None:
        return None
    op = ops.ConvTranspose(
        strides=view.numbers("strides", spatial) or (1,) * spatial,
        dilations=view.numbers("dilations", spatial) or (1,) * spatial,
        pads=None if view.has("output_shape") else _pads(view, spatial),
        output_padding=view.numbers("output_padding", spatial) or (0,) * spatial,
        groups=view.number("group", 1),
    )
    return Part(op, limits=_limits(view, 1, 2, 1))


def _refuse_missing(view: View) -> None:
    """Raise MisreadError where one of two operands isn't there."""
    if not (view.input(0) and view.input(1)):
        raise MisreadError(f"{view.node.name}: an operand is missing")


@reads("Gemm")
def _gemm(view: View) -> Reading:
    _refuse_missing(view)
    op = ops.Gemm(
        view.real("alpha", 1.0), view.real("beta", 1.0), bool(view.number("transA")), bool(view.number("transB"))
    )
    weight = 1 if view.constant(1) or view.input(1) in view.dequantized else 0
    out_axis = (0 if op.trans_b else 1) if weight else (1 if op.trans_a else 0)
    limits = _limits(view, weight, 2, out_axis)
    bias, known = view.shape(2), view.constant(weight)
    along = slice(-1, None) if weight else slice(-2, -1)  # the axis of C that the weight tells of
    if bias is not None and known is not None and bias[along] not in ((), (1,), known.shape[out_axis : out_axis + 1]):
        raise MisreadError(f"{view.node.name}: C of shape {bias} for a weight of {known.shape}")
    if op.beta == 0:  # C is there and counts for nothing
        limits.setdefault("bias", Why.NO_BIAS)
    return Part(op, limits=limits)


@reads("MatMul")
def _mat_mul(view: View) -> Reading:
    """A MatMul has no bias, but for that of an Add behind it, which `bnfold.raising` finds, or which it is given."""
    _refuse_missing(view)
    weight = 1 if view.constant(1) or view.input(1) in view.dequantized else 0
    known = view.constant(weight)
    limits = _limits(view, weight, 2, (len(known.shape) - 1 if weight else len(known.shape) - 2) if known else 0)
    return Part(ops.MatMul(), limits=limits)


@reads("Einsum")
def _einsum(view: View) -> Reading:
    """Linear where one of two operands is a constant, which then comes second."""
    equation = view.text("equation", "").replace(" ", "")
    if len(view.node.inputs) != 2 or not all(view.node.inputs) or "." in equation:
        return None
    inputs = view.node.inputs
    if view.constant(0) and not view.constant(1):
        terms, arrow, target = equation.partition("->")
        if not arrow:
            return None  # the order of the output's axes is implied by the letters, which stays so; but say it first
        left, _, right = terms.partition(",")
        equation, inputs = f"{right},{left}->{target}", inputs[::-1]
    limits = _limits(view, view.node.inputs.index(inputs[1]), 2, 0)
    if inputs[1] in view.dequantized:
        limits["weight"] = Why.QUANTIZED
    return Part(ops.Einsum(equation), inputs, limits)


@reads("BatchNormalization")
def _batch_norm(view: View) -> Reading:
    """Up to opset 13 the outputs tell training mode from test mode, from 14 on an attribute does."""
    if len(view.node.inputs) < 5 or not all(view.node.inputs[:5]):
        return None
    limits = view.operands_limited(gamma=1, beta=2, mean=3, variance=4)
    held = {"remove": Why.OVERRIDABLE, "constants": Why.OVERRIDABLE} if limits else {}
    trains = view.number("training_mode") == 1 or view.number("is_test", 1) == 0 or any(view.node.outputs[1:])
    if trains:
        held = {"remove": Why.TRAINING, "constants": Why.TRAINING}
    elif view.number("spatial", 1) == 0:
        held = {"remove": Why.AXIS, "constants": Why.AXIS}
    eps = view.real("epsilon", 1e-5)
    if not (held or (math.isfinite(eps) and _has_one_for_each_channel(view))):
        held = {"remove": Why.MALFORMED, "constants": Why.MALFORMED}
    return Part(ops.BatchNorm(eps), view.node.inputs[:5], held)


def _has_one_for_each_channel(view: View) -> bool:
    """Whether each of the statistics may be one number for each channel."""
    x = view.shape()
    shapes = [shape for index in range(1, 5) if (shape := view.shape(index)) is not None]
    sizes = [*(shape[0] for shape in shapes if len(shape) == 1), x[1] if x is not None and len(x) > 1 else None]
    return all(len(shape) == 1 for shape in shapes) and len({size for size in sizes if isinstance(size, int)}) <= 1


def _spatial(view: View) -> int | None:
    """The number of spatial axes, which the weight tells; None where its rank is unknown.

    Raises MisreadError where the weight doesn't fit the groups and x, or the bias the weight.
    """
    weight, x, groups = view.shape(1), view.shape(), view.number("group", 1)
    if weight is None:
        return None
    if len(weight) < 3 or groups < 1:
        raise MisreadError(f"{view.node.name}: weight of {len(weight)} axes, {groups} groups")
    rows, columns = weight[:2]
    transposed = view.node.kind == "ConvTranspose"
    inside = columns * groups if isinstance(columns, int) else None
    channels, outputs = (rows, inside) if transposed else (inside, rows)
    if isinstance(rows, int) and rows % groups:
        raise MisreadError(f"{view.node.name}: weight of {rows} rows for {groups} groups")
    bias = view.shape(2)
    if bias is not None and not (len(bias) == 1 and _may_equal(bias[0], outputs)):
        raise MisreadError(f"{view.node.name}: bias of shape {bias} for {outputs} channels")
    given = x[1] if x is not None and len(x) > 1 else None
    if not _may_equal(channels, given):
        raise MisreadError(f"{view.node.name}: weight of {channels} input channels, x has {given}")
    return len(weight) - 2


def _may_equal(first: Dim | None, second: Dim | None) -> bool:
    return first == second or not (isinstance(first, int) and isinstance(second, int))


def _same_pads(view: View, spatial: int) -> Pads | None:
    """Give the padding of a SAME that doesn't depend on the sizes, that of a stride of 1; else None.

    As many outputs as inputs want dilation * (taps - 1) numbers more; of an odd one, UPPER puts more behind.
    """
    mode, kernel = view.text("auto_pad", "NOTSET"), (view.shape(1) or ())[2:]
    if mode not in ("SAME_UPPER", "SAME_LOWER") or any(step != 1 for step in view.numbers("strides", spatial) or ()):
        return None
    dilations = view.numbers("dilations", spatial) or (1,) * spatial
    if not all(isinstance(taps, int) and taps > 0 for taps in kernel):
        return None
    both = (step * (taps - 1) for step, taps in zip(dilations, kernel, strict=True) if isinstance(taps, int))
    pairs = ((total // 2, total - total // 2) for total in both)
    return tuple(pair if mode == "SAME_UPPER" else pair[::-1] for pair in pairs)


def _pads(view: View, spatial: int) -> Pads | None:
    """Give (before, after) for each spatial axis; None where SAME computes them from the sizes."""
    mode = view.text("auto_pad", "NOTSET")
    if mode.startswith("SAME"):
        return None
    pads = (view.numbers("pads", 2 * spatial) if mode in ("NOTSET", "") else None) or (0,) * (2 * spatial)
    return tuple(zip(pads[:spatial], pads[spatial:], strict=True))


def _limits(view: View, weight: int, bias: int, out_axis: int) -> dict[str, Why]:
    """What of a linear node can't be rewritten."""
    limits = view.operands_limited(weight=weight, bias=bias)
    known = view.constant(weight)
    if view.input(weight) in view.dequantized:
        limits |= _quantized(view, known, out_axis)
    elif known is not None and known.dtype not in FLOATS:
        limits["weight"] = Why.QUANTIZED
    if view.input(bias):
        operand = view.constant(bias)
        if view.input(bias) in view.dequantized:
            limits["bias"] = Why.QUANTIZED
        elif operand is None:
            limits["bias"] = Why.COMPUTED
        elif operand.dtype not in FLOATS:
            limits["bias"] = Why.QUANTIZED
    return limits


def _quantized(view: View, known: Known | None, out_axis: int) -> dict[str, Why]:
    """A factor for each output channel goes into the DequantizeLinear's scale; one for the input channels can't."""
    found = None if known is None else dequantized(known, view.known)
    if found is None or known is None:  # arithmetic lies between, or what mixes the channels
        return {"weight": Why.QUANTIZED}
    scale = view.known.get(found.node.inputs[1])
    axis = found.node.attribute("axis")
    along = (axis.i if axis is not None else 1) % max(len(known.shape), 1)
    if not view.shared.isdisjoint(found.names):
        return {"weight": Why.SHARED}
    if scale is None or scale.dtype not in FLOATS or scale.name in view.held or view.opset < 13:
        return {"weight": Why.QUANTIZED}
    grouped = (
        view.node.kind == "ConvTranspose" and view.number("group", 1) != 1
    )  # its weight has no axis of all outputs
    if grouped or (scale.size != 1 and along != found.axes[out_axis]):
        return {"weight": Why.QUANTIZED}
    return {"weight_in": Why.QUANTIZED}
