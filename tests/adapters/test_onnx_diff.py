"""What `bnfold diff` finds: every planted difference, and nothing else."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from bnfold.adapters.onnx_diff import diff
from bnfold.adapters.onnx_file import fold_file
from tests.adapters.onnx_cases import batch_norm, model, numbers

TEXT = """<ir_version: 10, opset_import: ["": 17, "local": 1], producer_name: "maker">
g (float[N,3,8,8] x, bool f) => (float[N,4,6,6] y) {
    [k] w = Constant()
    [c] c = Conv<pads=[0,0,0,0]>(x, w)
    [n] n = BN(c)
    [l] l = local.F(n)
    [i] y = If(f)<then_branch = t () => (float[N,4,6,6] a) { [s] a = Relu(l) },
        else_branch = e () => (float[N,4,6,6] b) { [s] b = Mul(l, two) }>
}
<domain: "local", opset_import: ["": 17]>
F (x) => (y) { [h] h = Constant() y = Add(x, h) }"""


@pytest.fixture
def proto():
    found = model(TEXT.replace("BN(c)", "BatchNormalization(c, gamma, beta, mean, var)"), **batch_norm(4))
    weight = numpy_helper.from_array(numbers("w", (4, 3, 3, 3)), "w")
    found.graph.node[0].attribute.append(helper.make_attribute("value", weight))
    table = numpy_helper.from_array(numbers("h", (4, 6, 6)), "h")
    found.functions[0].node[0].attribute.append(helper.make_attribute("value", table))
    found.graph.initializer.append(numpy_helper.from_array(np.array([2, 0, np.inf], np.float32), "two"))
    found.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 4, 6, 6]))
    return found


def difference(first, second, folder):
    for name, proto in (("a", first), ("b", second)):
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())
    return [str(item) for item in diff(folder / "a.onnx", folder / "b.onnx")]


def changed(item, **fields):
    for name, value in fields.items():
        setattr(item, name, value)


def other_numbers(tensor, index, value):
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[index] = value
    tensor.raw_data = array.tobytes()


def branch(proto, number=1):
    return proto.graph.node[4].attribute[number].g


CASES = {
    "~ metadata producer_name  'maker' -> 'other'": lambda p: changed(p, producer_name="other"),
    "~ metadata doc_string  '' -> 'new'": lambda p: changed(p, doc_string="new"),
    "~ metadata opset ai.onnx  17 -> 18": lambda p: changed(p.opset_import[0], version=18),
    "+ metadata license": lambda p: p.metadata_props.add(key="license", value="none"),
    "~ metadata function local.F": lambda p: other_numbers(p.functions[0].node[0].attribute[0].t, 100, 9),
    "+ metadata training_info": lambda p: p.training_info.add(),
    "+ metadata graph doc_string": lambda p: changed(p.graph, doc_string="new"),
    "+ metadata i.then_branch/graph doc_string": lambda p: changed(branch(p, 0), doc_string="new"),
    "+ metadata graph quantization_annotation": lambda p: p.graph.quantization_annotation.add(tensor_name="c"),
    "~ input x  float32 (N, 3, 8, 8) -> float32 (N, 3, 9, 8)": lambda p: changed(
        p.graph.input[0].type.tensor_type.shape.dim[2], dim_value=9
    ),
    "- value_info c": lambda p: p.graph.ClearField("value_info"),
    "~ node c  other attributes": lambda p: p.graph.node[1].attribute[0].ints.__setitem__(0, 1),
    "~ node c  other documentation": lambda p: changed(p.graph.node[1], doc_string="new"),
    "~ node l  l = local.F(n)  ->  l = local.F(c)": lambda p: p.graph.node[3].input.__setitem__(0, "c"),
    "~ node i.else_branch/s  i.else_branch/b = Mul(l, two)  ->  i.else_branch/b = Sub(l, two)": lambda p: changed(
        branch(p).node[0], op_type="Sub"
    ),
    "+ node new  z = Relu(y)": lambda p: p.graph.node.append(helper.make_node("Relu", ["y"], ["z"], "new")),
    "~ tensor k.value  1 of 108 numbers, largest change 1.14 of 2.64": lambda p: other_numbers(
        p.graph.node[0].attribute[0].t, 100, 0
    ),
    "~ tensor two  1 of 3 numbers, largest change 1 of inf": lambda p: other_numbers(p.graph.initializer[4], 0, 1),
    "~ tensor two  1 of 3 numbers, largest change 0 of inf": lambda p: other_numbers(p.graph.initializer[4], 1, -0.0),
    "~ tensor two  other documentation": lambda p: changed(p.graph.initializer[4], doc_string="new"),
    "~ tensor two  float32 (3,) -> float32 (1, 3)": lambda p: p.graph.initializer[4].dims.insert(0, 1),
    "+ tensor more  float32 ()": lambda p: p.graph.initializer.append(numpy_helper.from_array(np.float32(1), "more")),
}


@pytest.mark.parametrize("line", CASES)
def test_a_difference_is_told_in_one_line(line, proto, tmp_path):
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    CASES[line](other)
    assert difference(proto, other, tmp_path) == [line]


def test_how_a_tensor_is_stored_is_no_difference(proto, tmp_path):
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    item = other.graph.initializer[0]
    array = numpy_helper.to_array(item)
    item.CopyFrom(helper.make_tensor(item.name, item.data_type, array.shape, array.tolist()))
    assert difference(proto, other, tmp_path) == []
    onnx.save(other, tmp_path / "c.onnx", save_as_external_data=True, size_threshold=0)
    assert diff(tmp_path / "a.onnx", tmp_path / "c.onnx") == ()


def test_after_a_fold_it_shows_what_that_changed(tmp_path):
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,8,8] x) => (float[N,4,6,6] y) { [c] c = Conv(x, w) [n] y = BatchNormalization(c, g, b, m, v) }""")
    tensors = zip(("w", "g", "b", "m", "v"), ((4, 3, 3, 3), (4,), (4,), (4,), (4,)), strict=True)
    for name, shape in tensors:
        proto.graph.initializer.append(numpy_helper.from_array(np.abs(numbers(name, shape)), name))
    onnx.save(proto, tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    found = diff(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert [(item.sign, item.what, item.name) for item in found] == [
        ("~", "node", "c"),
        ("-", "node", "n"),
        ("~", "tensor", "w"),
        *(("-", "tensor", name) for name in "gbmv"),
        ("+", "tensor", "c.bias"),
    ]
