"""Chains of layout operators become one, and only where nobody sees what is in between."""

from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.graph import Graph
from bnfold.raising import raised
from tests.building import Builder
from tests.oracle import run_graph


def shuffled() -> Graph:
    b = Builder()
    x = b.node("cut", ops.Reshape(), [b.input(2, 6, 5)], (2, 2, 3, 5))
    x = b.node("swap", ops.Transpose((0, 2, 1, 3)), [x], (2, 3, 2, 5))
    return b.graph(b.node("join", ops.Reshape(), [x], (2, 6, 5)))


def test_a_channel_shuffle_is_one_operator() -> None:
    graph = shuffled()
    one = raised(graph)
    assert [(node.name, type(node.op), node.sources) for node in one.nodes] == [
        ("join", ops.Rearrange, ("cut", "swap", "join"))
    ]
    x = np.random.default_rng(0).normal(size=(2, 6, 5))
    assert np.array_equal(run_graph(one, {"x": x})["join.y"], run_graph(graph, {"x": x})["join.y"])


def test_what_changes_nothing_in_between_belongs_to_the_chain() -> None:
    b = Builder()
    x = b.node("before", ops.Identity(), [b.input(2, 6, 5)], (2, 6, 5))
    x = b.node("cut", ops.Reshape(), [x], (2, 2, 3, 5))
    x = b.node("swap", ops.Transpose((0, 2, 1, 3)), [x], (2, 3, 2, 5))
    x = b.node("contiguous", ops.Identity(), [x], (2, 3, 2, 5))
    x = b.node("join", ops.Reshape(), [x], (2, 6, 5))
    one = raised(b.graph(b.node("after", ops.Identity(), [x], (2, 6, 5))))
    assert [node.name for node in one.nodes] == ["before", "join", "after"]
    assert one.by_name["join"].op == shuffle(raised(shuffled()))
    assert one.by_name["join"].sources == ("cut", "swap", "contiguous", "join")


def shuffle(graph: Graph) -> ops.Op:
    return graph.by_name["join"].op


def test_what_is_also_an_output_stays() -> None:
    graph = shuffled()
    assert raised(replace(graph, outputs=("swap.y", "join.y"))).nodes == graph.nodes
