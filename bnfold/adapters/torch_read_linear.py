"""Convolutions and matrix products of ATen."""

from bnfold import ops
from bnfold.adapters.torch_call import Call, Draft, is_tensor, length, per_axis, reads, shape_of


@reads("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def _conv(call: Call) -> Draft | None:
    """Padding is a number an axis, or `valid`, or `same` (the odd element goes behind)."""
    spatial = len(shape_of(call["weight"])) - 2
    if call.rank != spatial + 2:  # without a batch, the channels are on axis 0
        return None
    dilations = per_axis(call["dilation"], spatial)
    kernel = tuple(map(length, shape_of(call["weight"])[2:]))
    pads = _pads(call["padding"], kernel, dilations)
    op = ops.Conv(per_axis(call["stride"], spatial), dilations, pads, call["groups"])
    return Draft(op, (call["input"], call["weight"], call["bias"]))


def _pads(padding: object, kernel: tuple[int, ...], dilations: tuple[int, ...]) -> ops.Pads:
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        totals = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((size, size) for size in per_axis(padding, len(kernel)))


@reads("convolution.default")
def _convolution(call: Call) -> Draft | None:
    """The form that every convolution decomposes to."""
    spatial = len(shape_of(call["weight"])) - 2
    if call.rank != spatial + 2:
        return None
    strides, dilations = per_axis(call["stride"], spatial), per_axis(call["dilation"], spatial)
    pads = tuple((size, size) for size in per_axis(call["padding"], spatial))
    if call["transposed"]:
        more = per_axis(call["output_padding"], spatial)
        op: ops.Op = ops.ConvTranspose(strides, dilations, pads, more, call["groups"])
    else:
        op = ops.Conv(strides, dilations, pads, call["groups"])
    return Draft(op, (call["input"], call["weight"], call["bias"]))


@reads("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose(call: Call) -> Draft | None:
    spatial = len(shape_of(call["weight"])) - 2
    if call.rank != spatial + 2:
        return None
    op = ops.ConvTranspose(
        per_axis(call["stride"], spatial),
        per_axis(call["dilation"], spatial),
        tuple((size, size) for size in per_axis(call["padding"], spatial)),
        per_axis(call["output_padding"], spatial),
        call["groups"],
    )
    return Draft(op, (call["input"], call["weight"], call["bias"]))


@reads("linear.default")
def _linear(call: Call) -> Draft | None:
    if len(shape_of(call["weight"])) != 2:
        return None
    return Draft(ops.Linear(), (call["input"], call["weight"], call["bias"]))


@reads("bilinear.default")
def _bilinear(call: Call) -> Draft:
    return Draft(ops.Bilinear(), (call["input1"], call["weight"], call["bias"], call["input2"]))


@reads("addmm.default")
def _addmm(call: Call) -> Draft:
    op = ops.Gemm(alpha=float(call["alpha"]), beta=float(call["beta"]))
    return Draft(op, (call["mat1"], call["mat2"], call["self"]))


@reads("mm.default", "bmm.default", "matmul.default")
def _matmul(call: Call) -> Draft:
    left, right = call.arguments.values()
    return Draft(ops.MatMul(), (left, right))


@reads("einsum.default")
def _einsum(call: Call) -> Draft | None:
    tensors = list(call["tensors"])
    if len(tensors) != 2 or not all(map(is_tensor, tensors)):
        return None
    return Draft(ops.Einsum(call["equation"].replace(" ", "")), tuple(tensors))
