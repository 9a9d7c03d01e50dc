"""Moves: operators that move numbers about."""

import math
from dataclasses import replace

from bnfold import ops
from tests.networks.growth import Growth


def transpose(g: Growth, x: str) -> None:
    permutation = tuple(int(k) for k in g.rng.permutation(g.rank(x)))
    if g.chance(0.6):
        permutation = (0, *range(2, g.rank(x)), 1) if g.chance(0.5) else (0, g.rank(x) - 1, *range(1, g.rank(x) - 1))
    if g.rank(x) > 1:
        g.put(ops.Transpose(permutation), [x], [g.shape(x)[k] for k in permutation])


def reshape(g: Growth, x: str) -> None:
    shape, k = g.shape(x), int(g.rng.integers(g.rank(x)))
    flat = (*shape[:1], math.prod(shape[1:]))
    merged = (*shape[:k], math.prod(shape[k : k + 2]), *shape[k + 2 :])
    parted = (*shape[:k], 2, shape[k] // 2, *shape[k + 1 :]) if shape[k] % 2 == 0 else merged
    squeezed = tuple(n for n in shape if n != 1) or (1,)
    target = g.any(flat, flat, merged, parted, squeezed, (*shape, 1))
    if len(target) < 6:
        g.put(ops.Reshape(), [x], target)


def shuffle(g: Growth, x: str) -> None:
    if g.rank(x) < 2 or g.shape(x)[1] % 2:
        return
    batch, channels, *size = g.shape(x)
    steps = (
        ("reshape", (batch, 2, channels // 2, *size)),
        ("transpose", (0, 2, 1, *range(3, 3 + len(size)))),
        ("reshape", (batch, channels, *size)),
    )
    g.put(ops.Rearrange(steps), [x], g.shape(x))


def expand(g: Growth, x: str) -> None:
    target = [3 if n == 1 and g.chance(0.5) else n for n in g.shape(x)]
    g.put(ops.Expand(), [x], target if g.chance(0.7) or g.rank(x) > 4 else [2, *target])


def take(g: Growth, x: str) -> None:
    axis = int(g.rng.integers(g.rank(x)))
    shape = list(g.shape(x))
    if g.chance(0.3) and g.rank(x) > 1:
        index = int(g.rng.integers(shape.pop(axis)))
        g.put(ops.Select(axis, index), [x], shape)
        return
    indices = tuple(int(k) for k in g.rng.integers(-shape[axis], shape[axis], g.rng.integers(1, shape[axis] + 2)))
    shape[axis] = len(indices)
    g.put(ops.Take(axis, indices), [x], shape)


def split(g: Growth, x: str) -> None:
    axis = int(g.rng.integers(g.rank(x)))
    shape = list(g.shape(x))
    if shape[axis] < 2:
        return
    cut = int(g.rng.integers(1, shape[axis]))
    sizes = (cut, shape[axis] - cut)
    shapes = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
    first = g.put(ops.Split(axis, sizes), [x], shapes[0])
    if first is None:
        return
    second = f"{first}2"
    g.values[second] = replace(g.values[first], name=second, shape=shapes[1])
    g.nodes[-1] = replace(g.nodes[-1], outputs=(first, second))
    g.live.append(second)


def flip(g: Growth, x: str) -> None:
    axes = tuple(axis for axis in range(g.rank(x)) if g.chance(0.5))
    g.put(ops.Flip(axes), [x], g.shape(x))


def tile(g: Growth, x: str) -> None:
    repeats = tuple(int(k) for k in g.rng.integers(1, 3, g.rank(x)))
    if g.chance(0.2) and g.rank(x) < 5:
        repeats = (2, *repeats)
    shape = (*[1] * (len(repeats) - g.rank(x)), *g.shape(x))
    g.put(ops.Tile(repeats), [x], [n * k for n, k in zip(shape, repeats, strict=True)])


def stack(g: Growth, x: str) -> None:
    others = [name for name in g.live if g.shape(name) == g.shape(x)]
    axis = int(g.rng.integers(g.rank(x) + 1))
    shape = g.shape(x)
    if g.rank(x) < 5:
        g.put(ops.Stack(axis), [x, str(g.any(*others))], (*shape[:axis], 2, *shape[axis:]))


def pixels(g: Growth, x: str) -> None:
    if g.rank(x) != 4:
        return
    n, c, h, w = g.shape(x)
    mode = str(g.any("CRD", "DCR"))
    if c % 4 == 0:
        g.put(ops.DepthToSpace(2, mode), [x], (n, c // 4, 2 * h, 2 * w))
    elif h % 2 == 0 and w % 2 == 0:
        g.put(ops.SpaceToDepth(2, mode), [x], (n, 4 * c, h // 2, w // 2))


def shape_of(g: Growth, x: str) -> None:
    y = g.node(g.name("shapeof"), ops.ShapeOf(), [x], (g.rank(x),))
    g.values[y] = replace(g.values[y], dtype="int64")
