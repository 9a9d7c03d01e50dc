"""Files that nobody should have to open, by name; `python -m tests.adapters.hostile_onnx DIR` writes them.

Every one of them has to end in one line and exit status 2 or 4, or in a fold that is right, in little time and memory.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bnfold.adapters.onnx_wire import header, varint
from tests.adapters.onnx_cases import batch_norm, model

BOMB = 11 << 30


def _valid() -> onnx.ModelProto:
    text = "(float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) y = BN(c) }"
    return model(text, w=(4, 3, 3, 3), **batch_norm(4))


def empty() -> bytes:
    return b""


def zeros() -> bytes:
    return bytes(1000)


def png() -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def text() -> bytes:
    return b"This is not a model.\n" * 100


def truncated() -> bytes:
    return _valid().SerializeToString()[:-100]


def length_beyond_the_end() -> bytes:
    return b"\x08\x08" + b"\x3a" + varint(1 << 40) + b"abc"


def endless_number() -> bytes:
    return b"\x08" + b"\xff" * 50


def a_group() -> bytes:
    return b"\x08\x08\x0b\x0c"


def two_graphs() -> bytes:
    data = _valid().SerializeToString()
    return data + header(7, 4) + b"\x12\x02ab"


def deep_nesting() -> bytes:
    body = b"\x12\x01g"
    for _ in range(20_000):
        body = header(6, len(body)) + body
        body = header(5, len(body)) + body
        body = header(1, len(body)) + body
    return b"\x08\x08" + header(7, len(body)) + body


def bomb() -> bytes:
    """A small file that asks for 11 GB."""
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [BOMB // 4])
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["k"]), helper.make_node("Add", ["x", "k"], ["y"])]
    return _ended(nodes, [shape])


def expand_bomb() -> bytes:
    tensors = [
        helper.make_tensor("one", TensorProto.FLOAT, [1, 1], [2.0]),
        helper.make_tensor("s", TensorProto.INT64, [2], [1 << 20, 1 << 12]),
    ]
    nodes = [helper.make_node("Expand", ["one", "s"], ["k"]), helper.make_node("Mul", ["x", "k"], ["y"])]
    return _ended(nodes, tensors)


def _ended(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def a_filled_weight() -> bytes:
    text = "(float[2,8192] x) => (float[2,16384] y) { w = ConstantOfShape(s) c = MatMul(x, w) y = Mul(c, t) }"
    return _sized(text, s=np.array([8192, 16384]), t=(16384,))


def a_repeated_weight() -> bytes:
    text = "(float[2,8192] x) => (float[2,16384] y) { w = Expand(k, s) c = MatMul(x, w) y = Mul(c, t) }"
    return _sized(text, s=np.array([8192, 16384]), k=(1, 16384), t=(16384,))


def chained_bombs() -> bytes:
    """Each Concat doubles."""
    nodes, name = [], "one"
    for index in range(40):
        nodes.append(helper.make_node("Concat", [name, name], [f"k{index}"], axis=0))
        name = f"k{index}"
    nodes.append(helper.make_node("Add", ["x", name], ["y"]))
    return _ended(nodes, [helper.make_tensor("one", TensorProto.FLOAT, [1], [2.0])])


def huge_dims() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].dims[0] = 1 << 62
    return proto.SerializeToString()


def overflowing_dims() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].dims[:] = [1 << 32, 1 << 32, 4, 27]  # 0 modulo 2**64
    return proto.SerializeToString()


def negative_dims() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].dims[0] = -4
    return proto.SerializeToString()


def too_little_data() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    return proto.SerializeToString()


def no_data() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].ClearField("raw_data")
    return proto.SerializeToString()


def unknown_type() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].data_type = 99
    return proto.SerializeToString()


def two_initializers_of_one_name() -> bytes:
    proto = _valid()
    proto.graph.initializer.append(proto.graph.initializer[0])
    return proto.SerializeToString()


def circle() -> bytes:
    proto = _valid()
    proto.graph.node[0].input[0] = "y"
    return proto.SerializeToString()


def computed_twice() -> bytes:
    proto = _valid()
    proto.graph.node[1].output[0] = "c"
    return proto.SerializeToString()


def reads_nothing() -> bytes:
    proto = _valid()
    proto.graph.node[0].input[0] = "nowhere"
    return proto.SerializeToString()


def no_such_output() -> bytes:
    proto = _valid()
    proto.graph.output[0].name = "nowhere"
    return proto.SerializeToString()


def old_opset() -> bytes:
    proto = _valid()
    proto.opset_import[0].version = 6
    return proto.SerializeToString()


def future_opset() -> bytes:
    proto = _valid()
    proto.opset_import[0].version = 1000
    return proto.SerializeToString()


def statistics_of_another_size() -> bytes:
    proto = _valid()
    del proto.graph.initializer[1:]
    proto.graph.initializer.extend(model("(float x) => (float y) { y = Relu(x) }", **batch_norm(3)).graph.initializer)
    return proto.SerializeToString()


def groups_that_do_not_divide() -> bytes:
    proto = _valid()
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 3))
    return proto.SerializeToString()


def no_groups() -> bytes:
    proto = _valid()
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 0))
    return proto.SerializeToString()


def few_inputs() -> bytes:
    proto = _valid()
    del proto.graph.node[0].input[1:]
    del proto.graph.node[1].input[2:]
    return proto.SerializeToString()


def flat_weight() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].dims[:] = [108]
    return proto.SerializeToString()


def wrong_attributes() -> bytes:
    proto = _valid()
    for name in ("strides", "pads", "dilations", "auto_pad", "group"):
        proto.graph.node[0].attribute.append(helper.make_attribute(name, "text"))
    proto.graph.node[1].attribute.append(helper.make_attribute("epsilon", [1, 2]))
    return proto.SerializeToString()


def nan_weights() -> bytes:
    proto = _valid()
    proto.graph.initializer[0].raw_data = np.full(108, np.nan, np.float32).tobytes()
    return proto.SerializeToString()


def a_split_with_more_outputs_than_it_says() -> bytes:
    """ONNX's inference ends the process here."""
    text = "(float[1,4,2,2] x) => (float[a,b,c,d] y) { n = BN(x) y, z, u = Split<axis=1, num_outputs=2>(n) }"
    return _sized(text, opset=18, **batch_norm(4))


def bytes_in_names() -> bytes:
    return _valid().SerializeToString().replace(b"gamma", b"\xff\xfe\n\x1b[")


def _sized(text: str, **tensors: object) -> bytes:
    return model(text, **tensors).SerializeToString()


def an_axis_of_2_to_the_30() -> bytes:
    text = "(float[1,1073741824] x) => (float[1,1073741824] y) { m = Mul(x, s) r = Relu(m) y = Add(r, s) }"
    return _sized(text, s=np.asarray(2, np.float32))


def a_large_image_flattened() -> bytes:
    return _sized("(float[1,3,32768,32768] x) => (float[a,b] y) { n = BN(x) y = Flatten(n) }", **batch_norm(3))


def a_large_image_rearranged() -> bytes:
    text = """(float[1,4,16384,16384] x) => (float[a,b,c,d] y)
    { n = BN(x) a = Reshape(n, to) b = Transpose<perm=[0,2,1,3,4]>(a) y = Reshape(b, back) }"""
    to, back = np.array([1, 2, 2, 16384, 16384]), np.array([1, 4, 16384, 16384])
    return _sized(text, to=to, back=back, **batch_norm(4))


def a_slice_of_a_large_axis() -> bytes:
    text = "(float[1,3,1073741824] x) => (float[a,b,c] y) { n = BN(x) y = Slice(n, start, stop, axis) }"
    one = {"start": np.array([1]), "stop": np.array([1 << 29]), "axis": np.array([2])}
    return _sized(text, **one, **batch_norm(3))


def parts_of_a_large_axis() -> bytes:
    text = "(float[1,3,1073741824] x) => (float[a,b,c] y, float[d,e,f] z) { n = BN(x) y, z = Split<axis=2>(n) }"
    return _sized(text, **batch_norm(3))


def a_large_tile() -> bytes:
    text = "(float[1,3,4] x) => (float[a,b,c] y) { n = BN(x) y = Tile(n, times) }"
    return _sized(text, times=np.array([1, 1 << 29, 1]), **batch_norm(3))


def large_blocks() -> bytes:
    text = "(float[1,3,32768,32768] x) => (float[a,b,c,d] y) { n = BN(x) y = SpaceToDepth<blocksize=16384>(n) }"
    return _sized(text, **batch_norm(3))


CORPUS: dict[str, Callable[[], bytes]] = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and not name.startswith("_")
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in CORPUS.items():
        (folder / f"{name}.onnx").write_bytes(make())
