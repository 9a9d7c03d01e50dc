"""Reading LSTM, GRU and RNN."""

from bnfold import ops
from bnfold.adapters.onnx_tensors import FLOATS
from bnfold.adapters.onnx_view import Part, Reading, View, reads
from bnfold.why import Why

WEIGHT, BIAS = 1, 3  # operands


@reads("LSTM", "GRU", "RNN")
def _recurrent(view: View) -> Reading:
    """X (steps, batch, in), or with the batch first; W (ways, gates, in); B? (ways, 2 * gates), R's bias behind W's."""
    limits = view.operands_limited(weight=WEIGHT, bias=BIAS)
    for part, index in (("weight", WEIGHT), ("bias", BIAS)):
        known = view.constant(index)
        if view.input(index) in view.dequantized or (known is not None and known.dtype not in FLOATS):
            limits[part] = Why.QUANTIZED
    weight, bias = view.constant(WEIGHT), view.constant(BIAS)
    if weight is not None and (len(weight.shape) != 3 or view.rank() != 3):
        return None
    if weight is not None and bias is not None and bias.shape != (weight.shape[0], 2 * weight.shape[1]):
        return None
    return Part(ops.Recurrent(view.node.kind, ((WEIGHT, BIAS),)), limits=limits)
