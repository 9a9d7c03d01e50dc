"""Exported networks as other tools would have written them: whatever form a file has, as much is folded."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

import bnfold
from tests.adapters.onnx_cases import run
from tests.adapters.test_onnx_exports_torch import LEAST, legacy

NETWORKS = ("resnet", "preact_resnet", "densenet")


@cache
def exported(name: str) -> tuple[bytes, np.ndarray]:
    """Export a network once, with its input."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        x = legacy(name, path, 17, dynamic=True)
        return path.read_bytes(), x


def replace_nodes(proto: ModelProto, make: Callable[[NodeProto], Iterator[NodeProto]]) -> None:
    nodes = [new for node in proto.graph.node for new in make(node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def arrays(proto: ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def without_names(proto: ModelProto) -> None:
    for node in proto.graph.node:
        node.name = ""


def one_name(proto: ModelProto) -> None:
    for node in proto.graph.node:
        node.name = "node"


def taken_apart(proto: ModelProto) -> None:
    """Sub, Div, Mul and Add in the place of every BatchNormalization."""
    numbers = arrays(proto)

    def apart(node: NodeProto) -> Iterator[NodeProto]:
        if node.op_type != "BatchNormalization":
            yield node
            return
        x, *names = node.input
        gamma, beta, mean, var = (numbers[name].reshape(-1, 1, 1) for name in names)
        eps = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
        steps = (("Sub", mean), ("Div", np.sqrt(var + np.float32(eps))), ("Mul", gamma), ("Add", beta))
        for number, (kind, array) in enumerate(steps):
            y = node.output[0] if number == 3 else f"{node.output[0]}.{number}"
            proto.graph.initializer.append(numpy_helper.from_array(array, f"{node.output[0]}.{kind}"))
            yield helper.make_node(kind, [x, f"{node.output[0]}.{kind}"], [y])
            x = y

    replace_nodes(proto, apart)


def constant_nodes(proto: ModelProto) -> None:
    made = [helper.make_node("Constant", [], [item.name], value=item) for item in proto.graph.initializer]
    del proto.graph.initializer[:]
    nodes = [*made, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def chains(proto: ModelProto) -> None:
    """Every float initializer comes by way of a Reshape and an Identity."""
    nodes = []
    for item in [item for item in proto.graph.initializer if item.data_type == TensorProto.FLOAT]:
        name = item.name
        shape = numpy_helper.from_array(np.array(item.dims, np.int64), f"{name}.shape")
        flat = numpy_helper.from_array(numpy_helper.to_array(item).reshape(-1), f"{name}.flat")
        proto.graph.initializer.remove(item)
        proto.graph.initializer.extend([shape, flat])
        nodes.append(helper.make_node("Reshape", [flat.name, shape.name], [f"{name}.shaped"]))
        nodes.append(helper.make_node("Identity", [f"{name}.shaped"], [name]))
    nodes += proto.graph.node
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def one_function(proto: ModelProto) -> None:
    """The whole network is a local function that is called once."""
    graph = proto.graph
    inputs = [graph.input[0].name, *(item.name for item in graph.initializer)]
    outputs = [item.name for item in graph.output]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("local", "Net", inputs, outputs, graph.node, opsets))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    del graph.node[:]
    graph.node.append(helper.make_node("Net", inputs, outputs, domain="local"))
    graph.ClearField("value_info")
    proto.ir_version = 8


def in_a_branch(proto: ModelProto) -> None:
    """The whole network is what one of two branches does with a captured input."""
    graph = proto.graph
    (output,) = graph.output
    other = helper.make_node("Identity", ["zeros"], ["other"])
    zeros = numpy_helper.from_array(np.zeros((1, 1), np.float32), "zeros")
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (output.name, "other")]
    then = helper.make_graph(graph.node, "then", [], free[:1], value_info=graph.value_info)
    otherwise = helper.make_graph([other], "else", [], free[1:])
    del graph.node[:]
    del graph.value_info[:]
    graph.initializer.extend([zeros, numpy_helper.from_array(np.array(True), "flag")])
    graph.node.append(helper.make_node("If", ["flag"], ["result"], then_branch=then, else_branch=otherwise))
    output.CopyFrom(helper.make_tensor_value_info("result", TensorProto.FLOAT, [None, None]))


def dead_nodes(proto: ModelProto) -> None:
    def watched(node: NodeProto) -> Iterator[NodeProto]:
        yield node
        if node.op_type in ("Conv", "BatchNormalization", "Relu", "Add", "Concat"):
            yield helper.make_node("Sigmoid", [node.output[0]], [f"{node.output[0]}.seen"])

    replace_nodes(proto, watched)


def without_shapes(proto: ModelProto) -> None:
    proto.graph.ClearField("value_info")
    for number, dim in enumerate(proto.graph.output[0].type.tensor_type.shape.dim):
        dim.dim_param = f"out{number}"


VARIANTS = (without_names, one_name, taken_apart, constant_nodes, chains, one_function, in_a_branch)
VARIANTS += (dead_nodes, without_shapes)


@pytest.mark.parametrize("change", VARIANTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_as_much_is_folded_in_another_form(name: str, change: Callable[[ModelProto], None], tmp_path: Path) -> None:
    data, x = exported(name)
    proto = ModelProto.FromString(data)
    change(proto)
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    onnx.checker.check_model(str(source), full_check=True)
    plain = bnfold.fold(ModelProto.FromString(data), dry_run=True).plan
    result = bnfold.fold(source, output=target)
    assert (len(result.plan.folded), len(result.plan.kept)) == (len(plain.folded), len(plain.kept))
    onnx.checker.check_model(str(target), full_check=True)
    for path in (source, target) if change is one_name else ():  # ONNX Runtime takes none but unique names
        unnamed = onnx.load(path)
        without_names(unnamed)
        onnx.save(unnamed, path)
    feeds = {proto.graph.input[0].name: x}
    (got,), (want,) = run(target, feeds), run(source, feeds)
    np.testing.assert_allclose(got, want, rtol=0, atol=LEAST * np.abs(want).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_as_much_is_folded_in_the_newest_opset(name: str, tmp_path: Path) -> None:
    data, x = exported(name)
    newest = version_converter.convert_version(ModelProto.FromString(data), 22)
    plain = bnfold.fold(ModelProto.FromString(data), dry_run=True).plan
    result = bnfold.fold(newest)
    assert (len(result.plan.folded), len(result.plan.kept)) == (len(plain.folded), len(plain.kept))
    onnx.save(result.model, tmp_path / "folded.onnx")
    onnx.save(ModelProto.FromString(data), tmp_path / "model.onnx")
    feeds = {newest.graph.input[0].name: x}
    (got,), (want,) = (run(tmp_path / f"{which}.onnx", feeds) for which in ("folded", "model"))
    np.testing.assert_allclose(got, want, rtol=0, atol=LEAST * np.abs(want).max())
