"""Moves: operators that are linear at some of their ends only."""

from bnfold import ops
from bnfold.why import Why
from tests.networks.growth import Growth

GATES = {"LSTM": 4, "GRU": 3, "GRU, reset after": 3, "RNN": 1}


def _normed(g: Growth, x: str) -> str:
    """Put an affine along the last axis in front, half of the time."""
    if g.chance(0.5):
        return x
    features = g.shape(x)[-1]
    scale = g.rng.uniform(0.5, 2, features) * (1 if g.positive_only else g.rng.choice([-1, 1], features))
    shift = g.rng.normal(size=features) * g.chance(0.6)
    return g.put(ops.Affine(g.rank(x) - 1), [x, g.vector(scale), g.vector(shift)], g.shape(x)) or x


def recurrent(g: Growth, x: str) -> None:
    """A recurrent layer over axis 0: its weights stacked as ONNX's are, or one by one as torch's."""
    if g.rank(x) != 3:
        return
    x = _normed(g, x)
    steps, batch, features = g.shape(x)
    kind, ways, hidden = str(g.any(*GATES)), int(g.any(1, 2)), int(g.rng.integers(1, 4))
    gates, stacked = GATES[kind] * hidden, g.chance(0.5)
    biased = g.chance(0.7) or not (stacked or g.limits)
    stack = (ways,) if stacked else ()
    operands, parts = [x], []
    for _ in range(1 if stacked else ways):
        parts.append((len(operands), len(operands) + 2))
        operands += [g.weights(*stack, gates, size, fan_in=size) for size in (features, hidden)]
        sizes = [2 * gates] if stacked else [gates, gates]
        operands += [g.vector(g.rng.normal(size=(*stack, size))) if biased else "" for size in sizes]
    limits = {str(g.any("weight", "bias")): Why.PARAMETRIZED} if g.limits and g.chance(0.1) else {}
    if not biased and not stacked:  # torch has both biases or none
        limits["bias"] = Why.NO_BIAS
    shape = (steps, ways, batch, hidden) if stacked else (steps, batch, ways * hidden)
    g.put(ops.Recurrent(kind, tuple(parts)), operands, shape, limits=limits)


def bilinear(g: Growth, x: str) -> None:
    """Of x with a tensor that has its shape but for the features; now and then with itself."""
    others = [name for name in g.live if g.rank(name) == g.rank(x) and g.shape(name)[:-1] == g.shape(x)[:-1]]
    if g.rank(x) < 2:
        return
    x, y, out = _normed(g, x), str(g.any(*others)), int(g.rng.integers(1, 4))
    weight = g.weights(out, g.shape(x)[-1], g.shape(y)[-1], fan_in=g.shape(x)[-1] * g.shape(y)[-1])
    bias = g.vector(g.rng.normal(size=out)) if g.chance(0.7) else ""
    g.put(ops.Bilinear(), [x, weight, bias, y], (*g.shape(x)[:-1], out))
