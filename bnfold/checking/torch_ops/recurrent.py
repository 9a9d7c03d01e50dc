"""LSTM, GRU and RNN, step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnfold.checking.torch_ops.registry import Node, operator

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Relu": torch.relu}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@dataclass(frozen=True)
class _Layer:
    """One direction. weight: (gates * H, in). recurrent: (gates * H, H). bias, recurrent_bias: (gates * H,).

    peepholes: (3 * H,), of an LSTM's input, output and forget gate.
    """

    node: Node
    weight: Tensor
    recurrent: Tensor
    bias: Tensor
    recurrent_bias: Tensor
    peepholes: Tensor
    activations: Sequence[Callable[[Tensor], Tensor]]

    def gates(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """W x + b and R h + rb, (N, gates * H)."""
        return x @ self.weight.T + self.bias, h @ self.recurrent.T + self.recurrent_bias

    def bounded(self, x: Tensor) -> Tensor:
        """Clip what an activation is given, where the node says so."""
        limit = self.node.get("clip")
        return x if limit is None else x.clamp(-limit, limit)


def _rnn(layer: _Layer, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    given, kept = layer.gates(x, h)
    return layer.activations[0](layer.bounded(given + kept)), c


def _gru(layer: _Layer, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h' = (1 - z) n + z h; the gates are z, r and n."""
    f, g = layer.activations
    size = h.shape[-1]
    given, kept = layer.gates(x, h)
    z, r = f(layer.bounded(given[:, : 2 * size] + kept[:, : 2 * size])).chunk(2, 1)
    last = kept[:, 2 * size :]
    if layer.node.whole("linear_before_reset", 0) == 0:
        last = (r * h) @ layer.recurrent[2 * size :].T + layer.recurrent_bias[2 * size :]
    else:
        last = r * last
    return (1 - z) * g(layer.bounded(given[:, 2 * size :] + last)) + z * h, c


def _lstm(layer: _Layer, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """c' = f c + i n and h' = o tanh(c'); the gates are i, o, f and n."""
    f, g, last = layer.activations
    given, kept = layer.gates(x, h)
    i, o, forget, new = (given + kept).chunk(4, 1)
    peep_i, peep_o, peep_f = layer.peepholes.chunk(3)
    i = f(layer.bounded(i + peep_i * c))
    forget = 1 - i if layer.node.whole("input_forget", 0) else f(layer.bounded(forget + peep_f * c))
    after = forget * c + i * g(layer.bounded(new))
    return f(layer.bounded(o + peep_o * after)) * last(after), after


_STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


@operator("LSTM", "GRU", "RNN")
def recurrent(
    node: Node,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    state: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """`x`: (T, N, in); `weight`: (D, gates * H, in). Gives (T, D, N, H) and the last states, (D, N, H).

    With layout 1 the batch comes first in all of them.
    """
    batch_first = node.whole("layout", 0) == 1
    x = x.transpose(0, 1) if batch_first else x
    ways, size = len(weight), recurrence.shape[-1]
    zero = x.new_zeros(ways, x.shape[1], size)
    states = [zero if item is None else item.transpose(0, 1) if batch_first else item for item in (state, cell)]
    bias = x.new_zeros(ways, 2 * weight.shape[1]) if bias is None else bias
    peepholes = x.new_zeros(ways, 3 * size) if peepholes is None else peepholes
    counts = torch.full((x.shape[1],), len(x)) if lengths is None else lengths
    results = []
    for way in range(ways):
        own, other = bias[way].chunk(2)
        layer = _Layer(node, weight[way], recurrence[way], own, other, peepholes[way], _activations(node, way))
        backwards = way == 1 or node.get("direction", "forward") == "reverse"
        results.append(_run(layer, x, states[0][way], states[1][way], counts, backwards))
    y, *last = (torch.stack(parts) for parts in zip(*results, strict=True))
    if batch_first:
        y, last = y.permute(2, 1, 0, 3), [item.transpose(0, 1) for item in last]
    else:
        y = y.transpose(0, 1)
    return (y, *last)[: 3 if node.operator == "LSTM" else 2]


def _run(
    layer: _Layer, x: Tensor, h: Tensor, c: Tensor, counts: Tensor, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one direction over sequences of `counts` steps; what is behind a sequence's end is zero."""
    step = _STEPS[layer.node.operator]
    y = x.new_zeros(*x.shape[:2], h.shape[-1])
    for t in reversed(range(len(x))) if backwards else range(len(x)):
        inside = (t < counts)[:, None]
        new_h, new_c = step(layer, x[t], h, c)
        h, c = torch.where(inside, new_h, h), torch.where(inside, new_c, c)
        y[t] = torch.where(inside, h, torch.zeros_like(h))
    return y, h, c


def _activations(node: Node, way: int) -> list[Callable[[Tensor], Tensor]]:
    each = len(_DEFAULTS[node.operator])
    names = (node.get("activations") or _DEFAULTS[node.operator] * 2)[way * each : (way + 1) * each]
    return [_ACTIVATIONS[name] for name in names]
