"""What a fold leaves alone, by the bytes: every field of the file that it does not change, in its order."""

from collections.abc import Iterator

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from tests.adapters.onnx_cases import batch_norm, model, numbers

GRAPH, NODE, ATTRIBUTE, BODY = 7, 1, 5, 6  # field numbers in onnx.proto
UNKNOWN = bytes.fromhex("fa3e03616263")  # field 1007, three bytes
TEXT = """<ir_version: 10, opset_import: ["": 21, "com.example": 3, "local": 1]>
g (float[N,3,8,8] x, bool f) => (float[N,4,6,6] y, float[9] u) {
    [conv] c = Conv(x, w)
    [norm] n = BatchNormalization(c, gamma, beta, mean, var)
    [gate] r = Sigmoid(n)
    [choose] y = If(f)<then_branch = t () => (float[N,4,6,6] a) { [in] e = Mul(r, table) [more] a = Exp(e) },
        else_branch = e () => (float[N,4,6,6] b) { [out] b = Tanh(r) }>
    [last] u = com.example.Thing(typed)
}
<domain: "local", opset_import: ["": 21]>
Unused (x) => (y) { h = Tanh(x) y = Relu(h) }"""


def parts(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Split a protobuf message: each field's number, all of its bytes, and its body where it has a length."""
    at = 0
    while at < len(message):
        start = at
        tag, at = varint(message, at)
        match tag & 7:
            case 0:
                body, (_, at) = b"", varint(message, at)
            case 2:
                length, at = varint(message, at)
                body, at = message[at : at + length], at + length
            case wire:
                body, at = b"", at + {1: 8, 5: 4}[wire]
        yield tag >> 3, message[start:at], body


def varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while data[at] & 0x80:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1


def inside(message: bytes, number: int) -> bytes:
    """The body of the one field of a number."""
    (found,) = [body for field, _, body in parts(message) if field == number]
    return found


@pytest.fixture
def proto() -> onnx.ModelProto:
    """Every kind of field that people and tools put into a file."""
    found = model(TEXT, w=(4, 3, 3, 3), table=(4, 6, 6), unused=(5,), **batch_norm(4))
    graph = found.graph
    graph.initializer.insert(0, helper.make_tensor("typed", TensorProto.FLOAT, [9], range(9)))
    graph.initializer.append(helper.make_tensor("labels", TensorProto.STRING, [2], [b"cat", b"dog"]))
    sparse = numpy_helper.from_array(numbers("v", (2,)), "thin"), numpy_helper.from_array(numbers("i", (2,), "int64"))
    graph.sparse_initializer.append(helper.make_sparse_tensor(*sparse, [9]))
    for name in ("r", "n", "c"):
        graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 6, 6], f"doc {name}"))
    for name in ("r", "gamma", "w", "c"):
        graph.quantization_annotation.add(tensor_name=name).quant_parameter_tensor_names.add(key="SCALE", value="s")
    found.training_info.add().algorithm.CopyFrom(
        helper.make_graph([], "trained", [], [], [numpy_helper.from_array(numbers("big", (99,)), "big")])
    )
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    for held in (found, graph, graph.node[2], graph.initializer[0], graph.value_info[0], found.functions[0]):
        held.doc_string = "Documented."
        held.metadata_props.add(key="author", value="somebody")
    found.producer_name, found.domain, found.model_version = "somebody", "com.example", 7
    return found


def test_what_is_not_changed_is_there_byte_for_byte_and_in_its_order(proto, tmp_path):
    before = proto.SerializeToString() + UNKNOWN
    (tmp_path / "model.onnx").write_bytes(before)
    result = bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx")
    assert [outcome.affine for outcome in result.plan.folded] == ["norm"]
    after = (tmp_path / "folded.onnx").read_bytes()
    assert [item for item in parts(after) if item[0] != GRAPH] == [item for item in parts(before) if item[0] != GRAPH]

    old, new = ([item for _, item, _ in parts(inside(data, GRAPH))] for data in (before, after))
    graph = proto.graph
    changed = [graph.node[0], graph.node[1], *graph.initializer[1:2], *graph.initializer[4:8], graph.value_info[2]]
    changed += [graph.quantization_annotation[1], graph.quantization_annotation[3]]
    bodies = {item.SerializeToString() for item in changed}
    assert len(bodies) == 10
    kept = [item for item, (_, _, body) in zip(old, parts(inside(before, GRAPH)), strict=True) if body not in bodies]
    assert [item for item in new if item in kept] == kept
    assert len(new) == len(kept) + 3  # the convolution, its weight and its bias


def test_a_branch_in_which_nothing_changes_stays_as_it_is(proto, tmp_path):
    proto.graph.node[3].attribute[0].g.node[0].input[0] = "n"
    proto.graph.node[3].attribute[1].g.doc_string = "The other branch."
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx", only=["norm"])
    (folded,) = [node for node in onnx.load(tmp_path / "folded.onnx").graph.node if node.name == "choose"]
    assert folded.SerializeToString() == proto.graph.node[3].SerializeToString()


def test_a_model_in_which_nothing_folds_is_the_same_file(proto, tmp_path):
    del proto.graph.node[1]
    proto.graph.node[1].input[0] = "c"
    data = proto.SerializeToString() + UNKNOWN
    (tmp_path / "model.onnx").write_bytes(data)
    bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx", level="max")
    assert (tmp_path / "folded.onnx").read_bytes() == data
