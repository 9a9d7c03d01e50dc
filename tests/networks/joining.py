"""Moves: operators of several tensors, and blocks of layers."""

import numpy as np

from bnfold import ops
from bnfold.why import Why
from tests.networks.growth import Growth


def concat(g: Growth, x: str) -> None:
    axis = 1 if g.chance(0.7) and g.rank(x) > 1 else int(g.rng.integers(g.rank(x)))
    rest = (*g.shape(x)[:axis], *g.shape(x)[axis + 1 :])
    fits = [y for y in g.live if g.rank(y) == g.rank(x) and (*g.shape(y)[:axis], *g.shape(y)[axis + 1 :]) == rest]
    parts = [fits[k] for k in g.rng.integers(len(fits), size=g.rng.integers(1, 3))]
    shape = list(g.shape(x))
    shape[axis] += sum(g.shape(part)[axis] for part in parts)
    g.put(ops.Concat(axis), [x, *parts], shape)


def _broadcasts(g: Growth, x: str) -> list[str]:
    found = []
    for y in g.live:
        pairs = zip(g.shape(x)[::-1], g.shape(y)[::-1], strict=False)
        if all(n == m or 1 in (n, m) for n, m in pairs):
            found.append(y)
    return found


def join(g: Growth, x: str) -> None:
    """A sum or a product: of tensors of one shape, or of one that is broadcast against x."""
    alike = [y for y in g.live if g.shape(y) == g.shape(x)]
    operands = [x, *(alike[k] for k in g.rng.integers(len(alike), size=g.rng.integers(1, 3)))]
    if g.chance(0.3):
        fits = _broadcasts(g, x)
        operands = [x, fits[g.rng.integers(len(fits))]]
    shape = np.broadcast_shapes(*(g.shape(y) for y in operands))
    if g.chance(0.7):
        g.put(ops.Sum(tuple(float(g.any(1.0, 1.0, -1.0, 0.5)) for _ in operands)), operands, shape)
    else:
        g.put(ops.Product(), operands, shape)


def position(g: Growth, x: str) -> None:
    """A constant that is added to a tensor, multiplied with it or joined to it."""
    kind = str(g.any("add", "add", "mul", "cat"))
    shape = tuple(int(g.any(n, n, 1)) for n in g.shape(x))
    if kind == "cat":
        axis = int(g.rng.integers(g.rank(x)))
        shape = (*g.shape(x)[:axis], 1, *g.shape(x)[axis + 1 :])
    constant = g.constant(f"p{len(g.constants)}", g.rng.normal(size=shape))
    limits = {"constants": Why.SHARED} if g.limits and g.chance(0.1) else {}
    y = g.node(g.name("parameter"), ops.Parameter(), [constant], shape, limits=limits)
    operands = [x, y] if g.chance(0.5) else [y, x]
    if kind == "cat":
        g.put(ops.Concat(axis), operands, (*shape[:axis], g.shape(x)[axis] + 1, *shape[axis + 1 :]))
    else:
        g.put(ops.Sum((1.0, float(g.any(1.0, -0.5)))) if kind == "add" else ops.Product(), operands, g.shape(x))


def lookup(g: Growth, x: str) -> None:
    """Rows of a table of tokens, in the place of x (of whose shape they are)."""
    if g.rank(x) < 2:
        return
    channels = g.shape(x)[-1]
    table = g.constant(f"p{len(g.constants)}", g.rng.normal(size=(6, channels)))
    y = g.node(g.name("parameter"), ops.Parameter(), [table], (6, channels))
    rows = g.constant(f"i{len(g.constants)}", g.rng.integers(6, size=g.shape(x)[:-1]).astype(np.float64))
    g.put(ops.Lookup(), [y, rows], g.shape(x))


def residual(g: Growth, x: str) -> None:
    """x + conv(relu(bn(x))), or x + bn(conv(relu(x)))."""
    if g.rank(x) < 3:
        return
    channels, size = g.shape(x)[1], g.shape(x)[2:]
    y: str | None = x
    for step in g.any(("bn", "relu", "conv"), ("relu", "conv", "bn"), ("conv", "bn", "relu", "conv", "bn")):
        if y is None:
            return
        if step == "bn":
            y = g.normed(y)
        elif step == "relu":
            y = g.put(ops.Relu(), [y], g.shape(y))
        else:
            weight = g.weights(channels, channels, *[3] * len(size), fan_in=9 * channels)
            ones = (1,) * len(size)
            y = g.put(ops.Conv(ones, ones, ((1, 1),) * len(size)), [y, weight], g.shape(x))
    if y is not None:
        g.put(ops.Sum((1.0, 1.0)), [x, y], g.shape(x))


def branches(g: Growth, x: str) -> None:
    """The sum of parallel convs of x, of x itself and of its affines, as before they are one layer (RepVGG)."""
    if g.rank(x) < 3:
        return
    batch, channels, *size = g.shape(x)
    groups = int(g.any(1, channels))
    ones = (1,) * len(size)
    terms = []
    for _ in range(g.rng.integers(2, 4)):
        reach = [int(g.rng.integers(2)) for _ in size]
        weight = g.weights(channels, channels // groups, *(2 * r + 1 for r in reach), fan_in=channels // groups)
        operands = [x, weight, g.vector(g.rng.normal(size=channels))][: 2 + g.chance(0.5)]
        conv = ops.Conv(ones, ones, tuple((r, r) for r in reach), groups)
        y = x if g.chance(0.25) else g.put(conv, operands, (batch, channels, *size))
        terms.append((g.normed(y) if y and g.chance(0.7) else y) or x)
    coefficients = tuple(float(g.any(1.0, 1.0, 1.0, -1.0, 0.5)) for _ in terms)
    y = g.put(ops.Sum(coefficients), terms, g.shape(x))
    if y and g.chance(0.3):
        g.normed(y)


def extremum(g: Growth, x: str) -> None:
    same = [name for name in g.live if g.shape(name) == g.shape(x)]
    g.put(ops.Extremum(str(g.any("max", "min"))), [x, str(g.any(*same))], g.shape(x))


def gate(g: Growth, x: str) -> None:
    """x * sigmoid(conv1x1(mean(x)))."""
    if g.rank(x) != 4:
        return
    n, c = g.shape(x)[:2]
    y = g.put(ops.Reduce("mean", (2, 3), True), [x], (n, c, 1, 1))
    y = y and g.put(ops.Conv((1, 1), (1, 1), ((0, 0), (0, 0))), [y, g.weights(c, c, 1, 1, fan_in=c)], (n, c, 1, 1))
    y = y and g.put(ops.Unknown("sigmoid"), [y], (n, c, 1, 1))
    if y:
        g.put(ops.Product(), [x, y], g.shape(x))
