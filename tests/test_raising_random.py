"""Random arithmetic, raised, is the same function; what is left of it is never Binary or Unary."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from bnfold import ops
from bnfold.graph import Graph
from bnfold.raising import raised
from tests.test_raising import Builder, Shape, run

SHAPES = [(2, 3, 4), (2, 3), (3,), (2, 3, 1, 4)]


@st.composite
def constants_shape(draw: st.DrawFn, shape: Shape) -> Shape:
    """A shape that broadcasts with `shape` without enlarging it, or, now and then, with enlarging it."""
    kept = draw(st.integers(0, len(shape)))
    sizes = tuple(draw(st.sampled_from([1, size])) for size in shape[len(shape) - kept :])
    return (2, *sizes) if draw(st.integers(0, 9)) == 0 and kept == len(shape) else sizes


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    shape = draw(st.sampled_from(SHAPES))
    b = Builder(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = ["x"]
    for _ in range(draw(st.integers(1, 9))):
        x = tensors[-1 - draw(st.integers(0, min(1, len(tensors) - 1)))]
        kind = draw(st.sampled_from(["add", "sub", "mul", "div", "relu", "neg", "pair", "folded constant"]))
        if kind == "relu":
            tensors.append(b.node(ops.Relu(), x))
        elif kind == "neg":
            tensors.append(b.node(ops.Unary("neg"), x))
        elif kind == "pair":
            other = draw(st.sampled_from(tensors))
            tensors.append(b.binary(draw(st.sampled_from(["add", "sub", "mul"])), x, other))
        else:
            tensors.append(_with_constant(draw, b, x, kind, rng))
    outputs = {tensors[-1], *draw(st.lists(st.sampled_from(tensors[1:]), max_size=2))}
    return b.graph(*sorted(outputs))


def _with_constant(draw: st.DrawFn, b: Builder, x: str, kind: str, rng: np.random.Generator) -> str:
    shape = b.values[x].shape
    assert shape is not None
    c = b.constant(rng.uniform(0.5, 2, draw(constants_shape(shape))) * rng.choice([-1, 1]))
    if kind == "folded constant":
        root = b.node(ops.Unary("rsqrt"), b.binary("mul", c, c))
        return b.binary("mul", x, root)
    alpha = draw(st.sampled_from([1.0, 1.0, -2.0, 0.5])) if kind in ("add", "sub") else 1.0
    operands = (c, x) if draw(st.booleans()) and kind != "div" else (x, c)
    return b.binary(kind, *operands, alpha=alpha)


@settings(max_examples=300, deadline=None)
@given(graph=networks(), seed=st.integers(0, 2**32 - 1))
def test_raising_keeps_the_function(graph: Graph, seed: int) -> None:
    result = raised(graph)
    assert not any(isinstance(node.op, ops.Binary | ops.Unary) for node in result.nodes)
    assert {name for node in result.nodes for name in node.inputs} <= {*result.values, *result.constants}
    computed = [node for node in result.nodes if not isinstance(node.op, ops.Parameter)]
    sources = [source for node in computed for source in node.sources or (node.name,)]
    assert len(set(sources)) == len(sources)
    assert set(sources) <= set(graph.by_name)
    shape = graph.values["x"].shape
    assert shape is not None
    x = np.random.default_rng(seed).normal(size=shape)
    known = [replace(n, op=graph.by_name[n.name].op) if isinstance(n.op, ops.Unknown) else n for n in result.nodes]
    for got, wanted in zip(run(replace(result, nodes=tuple(known)), x), run(graph, x), strict=True):
        assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * max(1.0, math.sqrt(np.square(wanted).max())))
