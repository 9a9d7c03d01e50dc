"""Recurrent layers and cells of ATen."""

from torch import fx

from bnfold import ops
from bnfold.adapters.torch_call import Call, Draft, reads
from bnfold.why import Why

_KINDS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


@reads("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def _recurrent(call: Call) -> Draft:
    """params: for each layer and direction weight_ih, weight_hh, bias_ih?, bias_hh? and weight_hr?; x meets layer 0."""
    ways = 2 if call["bidirectional"] else 1
    params, biased = tuple(call["params"]), call["has_biases"]
    each = len(params) // (ways * call["num_layers"])
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else (call["hx"],)
    operands = (call["input"], *params, *states)
    parts = tuple((1 + way * each, 1 + way * each + 2 if biased else len(operands)) for way in range(ways))
    limits = {} if biased else {"bias": Why.NO_BIAS}
    if len(set(params)) < len(params):  # one tensor in two of its places
        limits = {"weight": Why.SHARED, "bias": Why.SHARED}
    return Draft(ops.Recurrent(_kind(call), parts), operands, limits)


@reads("lstm_cell.default", "gru_cell.default", "rnn_tanh_cell.default", "rnn_relu_cell.default")
def _cell(call: Call) -> Draft:
    """One step."""
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else (call["hx"],)
    operands = (call["input"], call["w_ih"], call["w_hh"], call["b_ih"], call["b_hh"], *states)
    limits = {} if isinstance(call["b_ih"], fx.Node) else {"bias": Why.NO_BIAS}
    return Draft(ops.Recurrent(_kind(call), ((1, 3),)), operands, limits)


def _kind(call: Call) -> str:
    name: str = call.node.target._schema.name  # type: ignore[union-attr]
    return _KINDS[name.removeprefix("aten::").split("_")[0]]
