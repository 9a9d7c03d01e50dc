"""Moves: linear operators, and calling or tying those that are there."""

import math

from bnfold import ops
from tests.networks.growth import Growth


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
        shape = (g.shape(x)[0], *g.shape(node.output)[1:])
        g.put(node.op, [x, *node.inputs[1:]], shape, unit=node.unit, limits=node.limits)


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
