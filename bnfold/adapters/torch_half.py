"""float16 results: the folded file is converted once, and held to the original network in float16."""

from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_copy import copied
from bnfold.errors import BnfoldError


def half_proto(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights, inputs and outputs to float16; what was folded in float64 is rounded here for the first time.

    Raises BnfoldError where ONNX Runtime, which brings the converter, isn't installed, or where a weight would
    overflow (the converter would clip it without a word).
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise BnfoldError("--half: needs ONNX Runtime's converter; pip install 'bnfold[cpu]'") from error
    for item in proto.graph.initializer:
        numbers = onnx.numpy_helper.to_array(item)
        if numbers.dtype.kind == "f" and numbers.size and abs(numbers).max() > torch.finfo(torch.float16).max:
            raise BnfoldError(
                f"--half: {item.name} has {abs(numbers).max():.3g}, which overflows float16; leave it out"
            )
    converted: onnx.ModelProto = convert_float_to_float16(
        proto, min_positive_val=5.97e-8, max_finite_val=65504.0, keep_io_types=False, disable_shape_infer=True
    )
    return converted


def half_model(model: Any, given: Arguments) -> tuple[nn.Module, Arguments]:
    """Give the original in float16, with inputs for it: what a float16 file is held to."""
    if not isinstance(model, nn.Module):
        raise BnfoldError("--half: takes a module; an exported program has its dtypes fixed")
    args, kwargs = pytree.tree_map(_half, (given.args, dict(given.kwargs)))
    return copied(model).half(), Arguments(args, kwargs)


def _half(item: Any) -> Any:
    return item.half() if isinstance(item, Tensor) and item.is_floating_point() else item
