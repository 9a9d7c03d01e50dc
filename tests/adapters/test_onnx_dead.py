"""Nodes that no output depends on: they hold no fold back, and stay as they are where what they read does."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

import bnfold
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model, numbers

IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y) "
W = {"w": (4, 3, 3, 3)}
BN = batch_norm(4)
CASES = [
    pytest.param("c = Conv(x, w) y = BN(c) d = Sigmoid(c)", W | BN, "Conv", id="reads what a BatchNorm reads"),
    pytest.param("c = Conv(x, w) y = BN(c) d = Sigmoid(y)", W | BN, "Conv Sigmoid", id="reads what stays"),
    pytest.param("d = Sigmoid(x) c = Conv(x, w) y = BN(c)", W | BN, "Sigmoid Conv", id="reads the input"),
    pytest.param(
        "c = Conv(x, w) y = BN(c) d = Sigmoid(c) e = Add(d, d) f = Exp(y) g = Mul(e, f) k = Tanh(f)",
        W | BN,
        "Conv Exp Tanh",
        id="what reads a dead one is dead",
    ),
    pytest.param(
        "c = Conv(x, w) b = BN(c) r = Relu(b) n = BN(r, 2) y = Conv(n, v) d = Exp(n) e = Exp(r)",
        W | BN | batch_norm(4, "2") | {"v": (4, 4, 1, 1)},
        "Conv Relu Conv Exp",
        id="reads what is folded forward",
    ),
    pytest.param("c = Conv(x, w) y = BN(c) d = Conv(x, w)", W | BN, "Conv", id="reads a weight that changes"),
    pytest.param(
        "c = Conv(x, w) y = BN(c) d = Exp(gamma) e = Exp(k) f = Mul(d, e)",
        W | BN | {"k": (7, 1)},
        "Conv Exp",
        id="reads statistics that go",
    ),
    pytest.param(
        "c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) m = Mul(t, s) y = Transpose<perm=[0,3,1,2]>(m) d = Exp(t)",
        W | {"s": (4,)},
        "Conv",
        id="reads between layouts that cancel",
    ),
    pytest.param(
        "k = Reshape(gamma, column) c = Conv(x, w) y = Mul(c, k) d = Exp(k)",
        W | {"gamma": (4,), "column": np.array([4, 1, 1])},
        "Conv",
        id="reads a constant that a node makes",
    ),
    pytest.param(
        "a = Conv<pads=[1,1,1,1]>(x, w) b = Conv(x, v) y = Add(a, b) d = Exp(a)",
        W | {"v": (4, 3, 1, 1)},
        "Conv",
        id="reads a branch that is merged",
    ),
    pytest.param("c = Conv(x, w) y = Relu(c) d = BN(c)", W | BN, "Conv Relu BatchNormalization", id="a dead BatchNorm"),
    pytest.param(
        "q = DequantizeLinear<axis=0>(i, s) c = Conv(x, q) y = BN(c) d = Exp(q)",
        {"i": np.arange(108, dtype=np.int8).reshape(4, 3, 3, 3), "s": numbers("vars", (4,)) / 100} | BN,
        "DequantizeLinear Conv",
        id="reads a quantised weight",
    ),
    pytest.param(
        "q = DequantizeLinear<axis=3>(i, s) t = Transpose(q) c = Conv(x, t) y = BN(c) d = Exp(t) e = Exp(i2)",
        {"i": np.arange(108, dtype=np.int8).reshape(3, 3, 3, 4), "s": numbers("vars", (4,)) / 100, "i2": (4,)} | BN,
        "DequantizeLinear Transpose Conv Exp",
        id="reads a quantised weight in another order",
    ),
    pytest.param(
        "c = Conv(x, w) y = BN(c) d, e = Split<axis=1>(c, two) f = Add(d, e)",
        W | BN | {"two": np.array([2, 2])},
        "Conv",
        id="several outputs",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "tensors", "left"), CASES)
def test_a_fold_does_not_count_what_nobody_reads(nodes, tensors, left, tmp_path):
    folded, result = fold_and_check(model(f"{IMAGE}{{ {nodes} }}", **tensors), tmp_path)
    assert kinds(folded) == left.split()
    assert result.plan.kept == ()
    assert not [item.name for item in folded.graph.initializer if "_folded" in item.name]  # as if it had no reader


def test_a_quantised_weight_that_gets_scales_of_its_own(tmp_path):
    text = """(float[N,3,8,8] x) => (float[N,4,h,w] y, float[N,4,h,w] z) {
        q = DequantizeLinear<axis=0>(i, s) c = Conv(x, q) y = BN(c)
        r = DequantizeLinear<axis=0>(j, s) e = Conv(x, r) z = Relu(e) d = Exp(q) f = Exp(r) }"""
    integers = {name: np.arange(k, k + 108, dtype=np.int8).reshape(4, 3, 3, 3) for k, name in enumerate("ij")}
    folded, _ = fold_and_check(model(text, **integers, s=numbers("vars", (4,)) / 100, **BN), tmp_path)
    assert kinds(folded) == ["DequantizeLinear", "Conv", "DequantizeLinear", "Conv", "Relu", "Exp"]
    assert folded.graph.node[5].input[0] == "r"


def test_operands_and_results_without_a_name_are_none(tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) d = Dropout(c) n = BN(c) y = Clip(n, , hi) }", 13, **W, **BN, hi=())
    proto.graph.node[1].output.extend([""])
    folded, result = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "Clip"]
    assert len(result.notes) == 1


def test_what_it_reads_besides_goes_unless_others_read_it(tmp_path):
    nodes = "c = Conv(x, w) y = BN(c) d = Mul(c, k) e = Mul(d, j) f = Exp(j)"
    proto = model(f"{IMAGE}{{ {nodes} }}", **W, **BN, k=(4, 1, 1), j=(4, 1, 1), unused=(2,))
    folded, _ = fold_and_check(proto, tmp_path)
    assert [item.name for item in folded.graph.initializer] == ["w", "j", "unused", "c.bias"]
    assert proto.graph.node[4] in folded.graph.node


def test_what_is_said_of_its_values_goes_too(tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) d = Sigmoid(c) e = Sigmoid(x) }", **W, **BN)
    for name in "cde":
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None]))
        proto.graph.quantization_annotation.add(tensor_name=name)
    folded, _ = fold_and_check(proto, tmp_path)
    assert [item.name for item in folded.graph.value_info] == ["e"]
    assert [item.tensor_name for item in folded.graph.quantization_annotation] == ["e"]


BODY = """(float[2,3,8,8] x, bool f) => (float[2,4,h,w] y) {
    o = Conv(x, w) c = Conv(x, w)
    y = If(f)<then_branch = t () => (float[a,b,c,d] p) { n = BN(c) z = Exp(c) u = Exp(o) p = Relu(n) },
              else_branch = e () => (float[a,b,c,d] q) { q = Tanh(o) }>
}"""


def test_a_dead_node_of_a_body(tmp_path):
    folded, result = fold_and_check(model(BODY, **W, **BN), tmp_path)
    assert len(result.plan.folded) == 1
    assert [node.op_type for node in folded.graph.node[2].attribute[0].g.node] == ["Exp", "Relu"]


DEAD_IF = """(float[2,3,8,8] x, bool f) => (float[2,4,h,w] y) {
    c = Conv(x, w) y = BN(c)
    d = If(f)<then_branch = t () => (float[a,b,c,d] p) { n = Mul(IN, k) p = Relu(n) },
              else_branch = e () => (float[a,b,c,d] q) { q = If(f)<
                  then_branch = t2 () => (float[a,b,c,d] u) { u = Tanh(y) },
                  else_branch = e2 () => (float[a,b,c,d] v) { v = Exp(IN) }> }>
    g = Exp(d)
}"""


@pytest.mark.parametrize(("read", "left"), [("c", "Conv"), ("y", "Conv If Exp"), ("x", "Conv If Exp")])
@pytest.mark.parametrize("external", [False, True])
def test_a_dead_node_with_bodies_goes_as_a_whole(read, left, external, tmp_path):
    proto = model(DEAD_IF.replace("IN", read), **W, **BN)
    body = proto.graph.node[2].attribute[0].g
    array = numbers("k", (3 if read == "x" else 4, 1, 1))
    body.initializer.append(onnx.numpy_helper.from_array(array, "k"))
    before = proto.graph.node[2].SerializeToString()
    if external:
        held = body.initializer[0]
        (tmp_path / "k.bin").write_bytes(held.raw_data)
        set_external_data(held, "k.bin", 0, len(held.raw_data))
        held.ClearField("raw_data")
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    result = bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx")
    assert result.plan.kept == ()
    onnx.checker.check_model(str(tmp_path / "folded.onnx"), full_check=True)
    folded = onnx.load(tmp_path / "folded.onnx")
    assert kinds(folded) == left.split()
    if "If" in left:
        assert folded.graph.node[1].SerializeToString() == before


@pytest.mark.parametrize(
    "nodes",
    [
        "d = com.example.Print(c)",
        "e = Exp(c) d = com.example.Print(e)",
        "d = If(f)<then_branch = t () => (float[a,b,c,d] p) { p = com.example.Print(c) }, "
        "else_branch = e () => (float[a,b,c,d] q) { q = Exp(x) }>",
        "d = local.Told(c)",
        "d = local.Plain(c)",
    ],
)
def test_what_may_act_is_alive(nodes, tmp_path):
    text = f"""<ir_version: 9, opset_import: ["": 17, "com.example": 1, "local": 1]>
    g (float[2,3,8,8] x, bool f) => (float[2,4,h,w] y)
    {{ c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var) {nodes} }}
    <domain: "local", opset_import: ["": 17, "com.example": 1]>
    Told (x) => (y) {{ z = com.example.Print(x) y = Exp(x) }}
    <domain: "local", opset_import: ["": 17]>
    Plain (x) => (y) {{ y = Exp(x) }}"""
    proto = model(text, **W, **BN)
    onnx.save(proto, tmp_path / "model.onnx")
    result = bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx")
    folded = onnx.load(tmp_path / "folded.onnx")
    if "Plain" in nodes:
        assert kinds(folded) == ["Conv"]
    else:
        assert [outcome.affine for outcome in result.plan.kept] == ["y"]
        assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize(("version", "left"), [(17, "Conv"), (12, "Conv")])
def test_a_dead_call_that_stays_one(version, left, tmp_path):
    """A function of an opset in which an Add is another: its body can't stand in the model."""
    text = f"""<ir_version: 9, opset_import: ["": 17, "local": 1]>
    g (float[2,3,8,8] x) => (float[2,4,h,w] y)
    {{ c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var) d = local.F(c) }}
    <domain: "local", opset_import: ["": {version}]>
    F (x) => (y) {{ y = Add(x, x) }}"""
    onnx.save(model(text, **W, **BN), tmp_path / "model.onnx")
    bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx")
    folded = onnx.load(tmp_path / "folded.onnx")
    assert kinds(folded) == left.split()


def test_a_model_of_dead_nodes_alone_stays_as_it_is(tmp_path):
    proto = model(
        IMAGE.replace("[N,4,h,w] y", "[N,3,8,8] y") + "{ y = Identity(x) c = Conv(x, w) d = BN(c) }", **W, **BN
    )
    onnx.save(proto, tmp_path / "model.onnx")
    bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx", level="max")
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_the_report_says_so(tmp_path):
    nodes = "c = Conv(x, w) y = BN(c) d = Sigmoid(c) e = Sigmoid(x)"
    onnx.save(model(f"{IMAGE}{{ {nodes} }}", **W, **BN), tmp_path / "model.onnx")
    result = bnfold.fold(tmp_path / "model.onnx")
    assert result.notes == ("no output depends on d, e: folded as if not there; gone with what they read: d",)


def test_an_initializer_that_a_dead_body_gives(tmp_path):
    """Its table goes with it, wherever that is; what another dead body gives stays."""
    text = """(float[2,3,8,8] x, bool f) => (float[2,4,h,w] y) {
        c = Conv(x, w) y = BN(c)
        d = If(f)<then_branch = t () => (float[a] p) { n = Exp(c) p = Identity(j) },
                  else_branch = e () => (float[a] q) { q = Identity(k) }>
        g = If(f)<then_branch = t2 () => (float[a] r) { r = Identity(k) },
                  else_branch = e2 () => (float[a] s) { s = Exp(k) }>
    }"""
    proto = model(text, **W, **BN, j=(3,), k=(3,))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "If"]
    assert [item.name for item in folded.graph.initializer] == ["w", "k", "c.bias"]


def test_an_initializer_that_a_body_without_nodes_gives():
    text = """(float[2,3,8,8] x, bool f) => (float[2,4,h,w] y) {
        c = Conv(x, w) y = BN(c) e = Exp(c) d = Add(e, k)
        g = If(f)<then_branch = t () => (float[4,1,1] r) { r = Identity(x) },
                  else_branch = e () => (float[4,1,1] k) { s = Exp(x) }> }"""
    folded = bnfold.fold(model(text, **W, **BN, k=(4, 1, 1))).model
    assert kinds(folded) == ["Conv", "If"]
    assert "k" in [item.name for item in folded.graph.initializer]
