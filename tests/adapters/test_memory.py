import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants
from tests.building import Builder

UP = np.array([2.0, -4, 0.5])


def carried_out(graph: Graph, *edits) -> Graph:
    return written(graph, Plan((), edits))


def operand(graph: Graph, node: str, index: int) -> np.ndarray:
    return graph.constants[graph.by_name[node].inputs[index]].load()


def test_readers_of_removed_nodes_read_what_stood_before_them():
    b = Builder()
    x = b.batch_norm("bn2", b.batch_norm("bn1", b.conv("conv", b.input(1, 2, 4, 4), 3)))
    graph = carried_out(b.graph(b.relu("relu", x)), Remove("bn1"), Remove("bn2"))
    assert [(node.name, node.inputs[0]) for node in graph.nodes] == [("conv", "x"), ("relu", "conv.y")]
    assert set(graph.values) == {"x", "conv.y", "relu.y"}
    assert set(graph.constants) == {"conv.weight", "conv.bias"}


def test_an_output_of_the_graph_keeps_its_name():
    b = Builder()
    x = b.conv("conv", b.input(1, 2, 4, 4), 3)
    graph = carried_out(b.graph(b.batch_norm("bn", x), b.relu("relu", x)), Remove("bn"))
    assert graph.outputs == ("bn.y", "relu.y")
    assert [(node.inputs[0], node.output) for node in graph.nodes] == [("x", "bn.y"), ("bn.y", "relu.y")]


def test_an_output_that_would_be_another_is_copied():
    b = Builder()
    x = b.input(1, 3, 4)
    y = b.conv("conv", x, 3)
    outputs = b.batch_norm("of input", x), b.batch_norm("one", y), b.batch_norm("two", y)
    graph = carried_out(b.graph(*outputs), Remove("of input"), Remove("one"), Remove("two"))
    assert str(graph).splitlines()[1:] == ["of input.y (1, 3, 4) = Identity(x)", "two.y (1, 3, 4) = Identity(one.y)"]
    assert graph.by_name["conv"].output == "one.y"


def test_a_constant_that_others_read_is_copied():
    b = Builder()
    x = b.input(2, 3)
    first = b.linear("one", x, 3)
    b.node("two", ops.Linear(), [x, "one.weight"], (2, 3))
    graph = b.graph(first, "two.y")
    changed = carried_out(graph, ScaleWeight("one", UP, np.ones(3)))
    assert_array_equal(operand(changed, "one", 1), UP[:, None] * operand(graph, "one", 1))
    assert_array_equal(operand(changed, "two", 1), operand(graph, "two", 1))


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float64", 1 / 3), ("float16", 0.333251953125), ("bfloat16", 0.333984375)]
)
def test_numbers_are_rounded_into_the_dtype_of_the_model(dtype, stored):
    b = Builder(dtype=dtype)
    graph = b.graph(b.linear("fc", b.input(2, 3), 3, bias=False))
    bias = operand(carried_out(graph, SetBias("fc", np.full(3, 1 / 3))), "fc", 2)
    assert bias.tolist() == [stored] * 3


def test_a_gemm_gets_the_whole_bias():
    b = Builder()
    x = b.input(2, 3)
    w, c = b.constant("w", np.eye(3)), b.constant("c", UP)
    graph = b.graph(b.node("fc", ops.Gemm(beta=0.5), [x, w, c], (2, 3)))
    changed = carried_out(graph, SetBias("fc", UP))
    assert changed.by_name["fc"].op == ops.Gemm(beta=1.0)
    assert_array_equal(operand(changed, "fc", 2), UP)


def test_operands_that_were_absent_are_made():
    b = Builder()
    mean, variance = b.constant("mean", UP), b.constant("var", UP**2)
    graph = b.graph(b.node("bn", ops.BatchNorm(1e-5), [b.input(2, 3), "", "", mean, variance], (2, 3)))
    changed = carried_out(graph, SetConstants("bn", {1: UP, 3: -UP}))
    assert_array_equal(operand(changed, "bn", 1), UP)
    assert_array_equal(operand(changed, "bn", 3), -UP)
    assert changed.by_name["bn"].inputs[2] == ""


def test_bounds_and_clips():
    b = Builder()
    x = b.node("clip", ops.Clip(0, 6), [b.input(2, 3)], (2, 3))
    x = b.node("pad", ops.Pad(((0, 0), (0, 1)), value=1.0), [x], (2, 4))
    graph = b.graph(b.relu("relu", x))
    edits = SetBounds("clip", None, 2.0), SetBounds("pad", -1.0), ReplaceByClip("relu", 1, -np.ones(4), np.ones(4))
    changed = carried_out(graph, *edits).by_name
    assert changed["clip"].op == ops.Clip(None, 2.0)
    assert changed["pad"].op == ops.Pad(((0, 0), (0, 1)), value=-1.0)
    assert changed["relu"].op == ops.ChannelClip(1)
    assert len(changed["relu"].inputs) == 3


@pytest.mark.parametrize("edit", [SetBias("relu", UP), ScaleWeight("relu", UP, UP), SetBounds("relu", 0.0)])
def test_an_edit_that_the_node_cannot_take_is_an_error(edit):
    b = Builder()
    with pytest.raises(ValueError, match="relu: "):
        carried_out(b.graph(b.relu("relu", b.input(2, 3))), edit)


def test_the_graph_itself_stays_as_it_was():
    b = Builder()
    graph = b.graph(b.batch_norm("bn", b.conv("conv", b.input(1, 2, 4, 4), 3)))
    before = str(graph), {name: constant.load().copy() for name, constant in graph.constants.items()}
    written(graph, fold(graph))
    assert str(graph) == before[0]
    for name, array in before[1].items():
        assert_array_equal(graph.constants[name].load(), array)
