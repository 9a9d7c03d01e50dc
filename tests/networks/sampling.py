"""Moves: pooling, reduction, resizing, padding."""

from bnfold import ops
from tests.networks.growth import Growth


def pooling(g: Growth, x: str) -> None:
    if g.rank(x) < 3:
        return
    size = [int(g.rng.integers(1, n + 1)) for n in g.shape(x)[2:]]
    g.put(g.any(ops.MaxPool(), ops.AvgPool(False), ops.AvgPool(True)), [x], (*g.shape(x)[:2], *size))


def reduction(g: Growth, x: str) -> None:
    shape = g.shape(x)
    axes = tuple(k for k in range(len(shape)) if g.chance(0.7 if k > 1 else 0.15))
    keepdims = g.chance(0.5)
    kept = [1 if k in axes else n for k, n in enumerate(shape) if keepdims or k not in axes]
    if axes and kept:
        g.put(ops.Reduce(str(g.any("mean", "mean", "sum", "max", "min")), axes, keepdims), [x], kept)


def resize(g: Growth, x: str) -> None:
    if g.rank(x) < 3:
        return
    size = [int(g.any(n, n + 1, 2 * n)) for n in g.shape(x)[2:]]
    g.put(ops.Resize(g.chance(0.8)), [x], (*g.shape(x)[:2], *size))


def pad(g: Growth, x: str) -> None:
    if g.rank(x) < 3 or min(g.shape(x)[2:]) < 2:
        return
    pads = ((0, 0), (0, int(g.chance(0.1))), *((int(g.rng.integers(-1, 2)), 1) for _ in g.shape(x)[2:]))
    mode = str(g.any("constant", "constant", "reflect", "replicate", "circular"))
    if pads[1][1] and mode == "reflect" and g.shape(x)[1] < 2:
        return
    op = ops.Pad(pads, mode, float(g.any(0.0, 0.0, 1.5)) if mode == "constant" else 0.0)
    g.put(op, [x], [n + sum(pair) for n, pair in zip(g.shape(x), pads, strict=True)])
