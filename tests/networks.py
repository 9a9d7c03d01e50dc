"""Random graphs of all the operators, with random affines everywhere: what a fold is tried on.

A network grows by moves; each puts one operator, or a few, on tensors that are there, where their shapes let it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Graph
from tests.building import Builder

Move = Callable[["Growth", str], None]
LARGEST = 400  # elements of a tensor, so that thousands of networks take seconds
INPUTS = [(2, 3, 4, 4), (2, 4, 5, 3), (1, 2, 3, 2, 3), (2, 4, 6), (3, 6), (2, 5, 4), (2, 1, 4, 4)]


@dataclass
class Growth(Builder):
    """positive: every gamma is. zeros: some gammas are zero."""

    positive_only: bool = False
    zeros: bool = True
    live: list[str] = field(default_factory=list)

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def any(self, *choices: object) -> object:
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self) -> str:
        """Give one of the latest tensors, seldom an old one."""
        recent = self.live if self.chance(0.15) else self.live[-3:]
        return recent[self.rng.integers(len(recent))]

    def rank(self, x: str) -> int:
        return len(self.shape(x))

    def weights(self, *shape: int, fan_in: int) -> str:
        return self.constant(f"w{len(self.constants)}", self.rng.normal(size=shape) / math.sqrt(fan_in))

    def vector(self, array: Floats) -> str:
        return self.constant(f"c{len(self.constants)}", array)

    def put(self, op: ops.Op, inputs: Sequence[str], shape: Sequence[int], **options: object) -> str | None:
        """Add a node, unless its output would be too large."""
        if math.prod(shape) > LARGEST or 0 in shape:
            return None
        y = self.node(self.name(type(op).__name__.lower()), op, list(inputs), tuple(shape), **options)
        self.live.append(y)
        return y

    def normed(self, x: str) -> str | None:
        """Put a BatchNorm on x."""
        return None if self.rank(x) < 2 else self._norm(x)

    def _norm(self, x: str) -> str | None:
        channels = self.shape(x)[1]
        gamma = self.rng.uniform(0.4, 2, channels)
        if not self.positive_only:
            gamma *= np.where(self.rng.random(channels) < 0.15, -1, 1)
        if self.zeros and self.chance(0.1):
            gamma *= np.where(self.rng.random(channels) < 0.3, 0, 1)
        beta, mean = self.rng.normal(size=channels), self.rng.normal(size=channels)
        variance = self.rng.uniform(0.4, 2, channels)
        if self.chance(0.1):
            mean = beta * np.sqrt(variance + 1e-5) / np.where(gamma == 0, 1, gamma)  # no shift, only a scale
        operands = [self.vector(array) for array in (gamma, beta, mean, variance)]
        return self.put(ops.BatchNorm(1e-5), [x, *operands], self.shape(x))


def conv(g: Growth, x: str) -> None:
    if g.rank(x) < 3:
        return
    batch, channels, *size = g.shape(x)
    rank = len(size)
    groups = int(g.any(1, 1, 2, channels))
    out = groups * int(g.rng.integers(1, 4))
    if channels % groups:
        return
    kernel = [int(g.rng.integers(1, 4)) for _ in size]
    strides = [int(g.any(1, 1, 2)) for _ in size]
    dilations = [int(g.any(1, 1, 2)) for _ in size]
    mode = str(g.any("zeros", "zeros", "reflect", "replicate", "circular"))
    pads = tuple((int(g.rng.integers(2)), int(g.rng.integers(2))) if g.chance(0.5) else (0, 0) for _ in size)
    padded = [n + sum(pair) - d * (k - 1) - 1 for n, pair, d, k in zip(size, pads, dilations, kernel, strict=True)]
    if min(padded) < 0 or (mode != "zeros" and min(size) < 2):
        return
    operands = [x, g.weights(out, channels // groups, *kernel, fan_in=channels // groups * math.prod(kernel))]
    if g.chance(0.5):
        operands.append(g.vector(g.rng.normal(size=out)))
    op = ops.Conv(tuple(strides), tuple(dilations), pads, groups, mode)
    assert rank == len(kernel)
    shape = (batch, out, *(n // s + 1 for n, s in zip(padded, strides, strict=True)))
    g.put(op, operands, shape, unit=g.name("unit"))


def conv_transpose(g: Growth, x: str) -> None:
    if g.rank(x) < 3:
        return
    batch, channels, *size = g.shape(x)
    groups = int(g.any(1, 2, channels))
    if channels % groups:
        return
    out = int(g.rng.integers(1, 4))
    kernel, strides = [int(g.rng.integers(1, 4)) for _ in size], [int(g.any(1, 2)) for _ in size]
    extra = tuple(int(g.rng.integers(stride)) for stride in strides)
    shape = [(n - 1) * s + k + e for n, s, k, e in zip(size, strides, kernel, extra, strict=True)]
    operands = [x, g.weights(channels, out, *kernel, fan_in=channels // groups * math.prod(kernel))]
    if g.chance(0.5):
        operands.append(g.vector(g.rng.normal(size=out * groups)))
    pads = ((0, 0),) * len(size)
    g.put(
        ops.ConvTranspose(tuple(strides), (1,) * len(size), pads, extra, groups),
        operands,
        (batch, out * groups, *shape),
    )


def again(g: Growth, x: str) -> None:
    """Call a module again, on the same tensor or on another one that fits."""
    called = [node for node in g.nodes if node.unit and g.shape(node.inputs[0])[1:] == g.shape(x)[1:]]
    if called:
        node = called[g.rng.integers(len(called))]
        g.put(node.op, [x, *node.inputs[1:]], (g.shape(x)[0], *g.shape(node.output)[1:]), unit=node.unit)


def tied(g: Growth, x: str) -> None:
    """Another layer with the weight of one that is there."""
    other = [
        node for node in g.nodes if isinstance(node.op, ops.Linear) and g.shape(node.inputs[0])[-1] == g.shape(x)[-1]
    ]
    if other:
        node = other[g.rng.integers(len(other))]
        g.put(node.op, [x, *node.inputs[1:]], (*g.shape(x)[:-1], g.shape(node.output)[-1]))


def linear(g: Growth, x: str) -> None:
    *batch, features = g.shape(x)
    out = int(g.rng.integers(1, 6))
    operands = [x, g.weights(out, features, fan_in=features)]
    if g.chance(0.5):
        operands.append(g.vector(g.rng.normal(size=out)))
    g.put(ops.Linear(), operands, (*batch, out))


def gemm(g: Growth, x: str) -> None:
    if g.rank(x) != 2:
        return
    left, turned, weight_turned = g.chance(0.3), g.chance(0.3), g.chance(0.5)
    shape, out = g.shape(x), int(g.rng.integers(1, 6))
    inner, outer = (shape[1], shape[0]) if turned == left else (shape[0], shape[1])
    weight_shape = (out, inner) if weight_turned != left else (inner, out)
    weight = g.weights(*weight_shape, fan_in=inner)
    op = ops.Gemm(
        float(g.any(1.0, 0.5)), float(g.any(1.0, -2.0)), *((weight_turned, turned) if left else (turned, weight_turned))
    )
    result = (out, outer) if left else (outer, out)
    operands = [weight, x] if left else [x, weight]
    if g.chance(0.5):
        bias = g.rng.normal(size=(out, 1) if left else g.any((out,), (1, out), result))
        operands.append(g.vector(bias))
    g.put(op, operands, result)


def mat_mul(g: Growth, x: str) -> None:
    if g.rank(x) < 2:
        return
    shape, out = g.shape(x), int(g.rng.integers(1, 6))
    if g.chance(0.5):
        stack = (shape[0],) if g.rank(x) == 3 and g.chance(0.3) else ()
        operands, result = [x, g.weights(*stack, shape[-1], out, fan_in=shape[-1])], (*shape[:-1], out)
        bias = (out,)
    else:
        operands, result = [g.weights(out, shape[-2], fan_in=shape[-2]), x], (*shape[:-2], out, shape[-1])
        bias = (out, 1)
    if g.chance(0.3):
        operands.append(g.vector(g.rng.normal(size=bias)))
    g.put(ops.MatMul(), operands, result)


def einsum(g: Growth, x: str) -> None:
    if g.rank(x) != 3:
        return
    a, b, c = g.shape(x)
    out = int(g.rng.integers(1, 5))
    if g.chance(0.5):
        g.put(ops.Einsum("...c,dc->...d"), [x, g.weights(out, c, fan_in=c)], (a, b, out))
    else:
        g.put(ops.Einsum("oi,bit->bot"), [g.weights(out, b, fan_in=b), x], (a, out, c))


def batch_norm(g: Growth, x: str) -> None:
    g.normed(x)


def affine(g: Growth, x: str) -> None:
    axis = int(g.rng.integers(g.rank(x)))
    channels = g.shape(x)[axis]
    scale = g.rng.uniform(0.5, 2, channels) * (
        np.ones(channels) if g.positive_only else g.rng.choice([-1, 1], channels)
    )
    shift = g.rng.normal(size=channels) * g.chance(0.6)
    g.put(ops.Affine(axis), [x, g.vector(scale), g.vector(shift)], g.shape(x))


def activation(g: Growth, x: str) -> None:
    clip = ops.Clip(*g.any((0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 0.5), (None, None)))
    op = g.any(ops.Relu(), ops.Relu(), ops.Relu(), ops.LeakyRelu(0.1), ops.Abs(), clip, ops.Identity(), ops.Cast())
    g.put(op, [x], g.shape(x))


def other_activation(g: Growth, x: str) -> None:
    if g.chance(0.5) and g.rank(x) > 1:
        slopes = g.rng.normal(size=(g.shape(x)[1], *[1] * (g.rank(x) - 2)))
        g.put(ops.PRelu(), [x, g.vector(slopes)], g.shape(x))
    else:
        g.put(ops.Unknown(str(g.any("sigmoid", "sin", "softplus"))), [x], g.shape(x))


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


def pixels(g: Growth, x: str) -> None:
    if g.rank(x) != 4:
        return
    n, c, h, w = g.shape(x)
    mode = str(g.any("CRD", "DCR"))
    if c % 4 == 0:
        g.put(ops.DepthToSpace(2, mode), [x], (n, c // 4, 2 * h, 2 * w))
    elif h % 2 == 0 and w % 2 == 0:
        g.put(ops.SpaceToDepth(2, mode), [x], (n, 4 * c, h // 2, w // 2))


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


def shape_of(g: Growth, x: str) -> None:
    y = g.node(g.name("shapeof"), ops.ShapeOf(), [x], (g.rank(x),))
    g.values[y] = replace(g.values[y], dtype="int64")


MOVES: dict[Move, float] = {
    batch_norm: 6, affine: 1, conv: 6, conv_transpose: 1, again: 1, tied: 0.5, linear: 1.5, gemm: 1, mat_mul: 1,
    einsum: 0.5, activation: 3, other_activation: 0.7, pooling: 1.5, reduction: 1, resize: 0.7, pad: 0.7,
    transpose: 1, reshape: 1.5, shuffle: 0.5, expand: 0.4, take: 0.7, split: 0.7, pixels: 0.6, concat: 1.5,
    join: 1.5, residual: 2, branches: 1, gate: 0.5, shape_of: 0.2,
}  # fmt: skip

# Affines that stand in each other's way: where one takes the frame of a trunk, another can't.
RIVALS: dict[Move, float] = {
    batch_norm: 6,
    residual: 2,
    concat: 1,
    join: 3,
    activation: 3,
    conv: 1,
    split: 0.5,
    take: 0.5,
}


def network(seed: int, moves: int | None = None, chances: Mapping[Move, float] = MOVES, *, zeros: bool = True) -> Graph:
    """Give the network of this seed, always the same one. moves: how many; 4 to 16 by default."""
    g = Growth(seed, positive_only=seed % 3 == 0, zeros=zeros)
    for k in range(1 + g.chance(0.2)):
        g.live.append(g.input(*INPUTS[g.rng.integers(len(INPUTS))], name=f"x{k}"))
    if g.chance(0.6):
        conv(g, g.live[0])
    probabilities = np.array(list(chances.values())) / sum(chances.values())
    for number in g.rng.choice(len(chances), size=moves or int(g.rng.integers(4, 17)), p=probabilities):
        list(chances)[number](g, g.pick())
    for x in _unread(g):
        if g.chance(0.5):
            g.any(linear, conv, reduction, activation)(g, x)
    inner = [name for name in g.live if name not in (*_unread(g), *g.inputs)]
    seen = [inner[g.rng.integers(len(inner))]] if inner and g.chance(0.1) else []
    return g.graph(*_unread(g), *seen)


def _unread(g: Growth) -> list[str]:
    read = {name for node in g.nodes for name in node.inputs}
    return [name for name in g.values if name not in read and name not in g.inputs]
