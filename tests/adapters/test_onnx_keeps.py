"""Where the fold of an ONNX file must stop, and the reason that it must give."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfold.adapters.onnx_file import fold_file, fold_proto, read
from bnfold.errors import BnfoldError
from bnfold.why import Why
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model, numbers

IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
W = {"w": (4, 3, 3, 3)}
BN = batch_norm(4)

KEEPS = [
    pytest.param(
        "(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = BN(x) }", BN, Why.INPUT, id="between the model's ends"
    ),
    pytest.param(IMAGE + "{ c = Conv(x, w) r = Relu(c) y = BN(r) }", W | BN, Why.OUTPUT, id="behind a relu"),
    pytest.param(
        "(float[N,4,4] x) => (float[N,4,4] y) { c = MatMul(x, w) y = BN(c) }",
        {"w": (4, 4)} | BN,
        Why.INPUT,
        id="another axis of the same size",
    ),
    pytest.param(
        "(float[N,4,8,8] x) => (float[N,4,8,8] y) { d = BN(x) y = Conv<pads=[1,1,1,1]>(d, w) }",
        {"w": (4, 4, 3, 3)} | BN,
        Why.PADDING,
        id="before a padded conv",
    ),
    pytest.param(
        "(float[N,3,8,8] x, float[4,3,3,3] w) => (float[N,4,6,6] y) { c = Conv(x, w) y = BN(c) }",
        BN,
        Why.COMPUTED,
        id="a weight that is an input",
    ),
    pytest.param(
        IMAGE + "{ z = Conv(x, w) b = ReduceMean<axes=[0,2,3], keepdims=0>(z) c = Conv(x, w, b) y = BN(c) }",
        W | BN,
        Why.COMPUTED,
        id="a bias that is computed",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w, b) y = BN(c) }", W | BN | {"b": (1, 4)}, Why.MALFORMED, id="a bias of two axes"
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w, b) y = BN(c) }", W | BN | {"b": (1,)}, Why.MALFORMED, id="a bias of one number"
    ),
    pytest.param(
        IMAGE + "{ c = ConvTranspose<group=3>(x, w, b) y = BN(c) }",
        {"w": (3, 2, 3, 3), "b": (2,)} | batch_norm(6),
        Why.MALFORMED,
        id="a bias for one group",
    ),
    pytest.param(
        "(float[N,3,8,8] x, float[4] gamma) => (float[N,4,6,6] y) { c = Conv(x, w) y = BN(c) }",
        W | {k: v for k, v in BN.items() if k != "gamma"},
        Why.COMPUTED,
        id="a gamma that is an input",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) y = BN(c) }",
        W | BN | {"var": np.array([1, np.nan, 1, 1], np.float32)},
        Why.NOT_FINITE,
        id="a variance that is NaN",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) y = BN(c) }",
        W | BN | {"var": np.array([1, -1, 1, 1], np.float32)},
        Why.VARIANCE,
        id="a negative variance",
    ),
    pytest.param(
        "(float16[N,3] x) => (float16[N,4] y) { c = Gemm(x, w) y = Mul(c, s) }",
        {"w": numbers("w", (3, 4), "float16") * np.float16(1e4), "s": np.array([1, 60, 2, 3], np.float16)},
        Why.OVERFLOW,
        id="weights that would overflow",
    ),
]


@pytest.mark.parametrize(("text", "tensors", "why"), KEEPS)
def test_keeps(text, tensors, why, tmp_path):
    proto = model(text, **tensors)
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert not result.plan.folded
    assert why in [reason.why for kept in result.plan.kept for reason in kept.why]
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("opset", "attributes", "outputs", "why"),
    [
        pytest.param(9, {}, ["y", "m2", "v2", "m3", "v3"], Why.TRAINING, id="five outputs before opset 14"),
        pytest.param(15, {"training_mode": 1}, ["y", "m2", "v2"], Why.TRAINING, id="training_mode"),
        pytest.param(15, {"training_mode": 1}, ["y"], Why.TRAINING, id="training_mode, one output"),
        pytest.param(7, {"spatial": 0}, ["y"], Why.AXIS, id="statistics of every pixel"),
    ],
)
def test_what_is_no_per_channel_affine_stays(opset, attributes, outputs, why, tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", opset, **W, **BN)
    node = proto.graph.node[1]
    del node.output[:]
    node.output.extend(outputs)
    node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert [[reason.why for reason in kept.why] for kept in result.plan.kept] == [[why]]
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize("attributes", [{}, {"spatial": 1}, {"momentum": 0.5}])
def test_outputs_with_empty_names_are_no_outputs(attributes, tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", 8, **W, **BN)
    proto.graph.node[1].output.extend(["", "", "", ""])
    proto.graph.node[1].attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    onnx.save(proto, tmp_path / "model.onnx")
    assert fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx").plan.folded
    assert kinds(onnx.load(tmp_path / "folded.onnx")) == ["Conv"]


def test_an_overridable_initializer_is_part_of_the_interface(tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN)
    for item in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "kept.onnx")
    assert [reason.why for reason in result.plan.kept[0].why] == [Why.OVERRIDABLE]
    assert (tmp_path / "kept.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()

    folded, _ = fold_and_check(proto, tmp_path, freeze_inputs=True)
    assert kinds(folded) == ["Conv"]
    assert [item.name for item in folded.graph.input] == ["x"]


@pytest.mark.parametrize("name", ["w", "s"])
def test_one_overridable_initializer_holds_the_fold(name, tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", **W, s=(4, 1, 1))
    held = next(item for item in proto.graph.initializer if item.name == name)
    proto.graph.input.append(helper.make_tensor_value_info(name, held.data_type, held.dims))
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert not result.plan.folded
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    fold_and_check(proto, tmp_path, freeze_inputs=True)


def test_other_domains_and_unknown_operators_are_left_alone(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17, "com.example": 1]>
    g (float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z)
    { c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var) y = com.example.Relu(n)
      d = Conv(x, w) z = com.example.BatchNormalization(d, gamma, beta, mean, var) }"""
    proto = model(text, **W, **BN)
    onnx.save(proto, tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert len(result.plan.folded) == 1
    folded = onnx.load(tmp_path / "folded.onnx")
    assert kinds(folded) == ["Conv", "Relu", "Conv", "BatchNormalization"]
    assert "com.example.Relu" in str(read(tmp_path / "folded.onnx"))
    untouched = {item.name: item for item in folded.graph.initializer}["w"]
    assert untouched == proto.graph.initializer[0]  # the second conv still reads it


def test_a_local_function_takes_the_place_of_the_operator_of_its_name(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) m = Mul(c, s) p = local.Relu(m) y = Mul(p, s) }
    <domain: "local", opset_import: ["": 17]>
    Relu (x) => (y) { y = Sigmoid(x) }"""
    proto = model(text, **W, s=(4, 1, 1))
    onnx.save(proto, tmp_path / "model.onnx")
    folded, result = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "Relu", "Mul"]
    assert [outcome.affine for outcome in result.plan.kept] == ["y"]


def test_strings_and_sparse_tensors_are_carried_along(tmp_path):
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN)
    proto.graph.initializer.append(helper.make_tensor("labels", TensorProto.STRING, [2], [b"cat", b"dog"]))
    values = helper.make_tensor("thin", TensorProto.FLOAT, [1], [3.0])
    indices = helper.make_tensor("thin.indices", TensorProto.INT64, [1], [2])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    onnx.save(proto, tmp_path / "model.onnx")
    assert fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx").plan.folded
    folded = onnx.load(tmp_path / "folded.onnx")
    assert folded.graph.sparse_initializer == proto.graph.sparse_initializer
    assert proto.graph.initializer[-1] in folded.graph.initializer


def test_arithmetic_with_an_operand_missing_is_left_alone():
    proto = model(IMAGE + "{ c = Conv(x, w) y = Mul(c) }", **W)
    assert kinds(fold_proto(proto).model) == ["Conv", "Mul"]


@pytest.mark.parametrize(
    ("resize", "opset", "left"),
    [
        ('Resize<mode="linear">(c, , scales)', 17, 3),
        ('Resize<mode="linear">(c, scales)', 10, 3),
        ('Upsample<mode="linear">(c, scales)', 9, 3),
        ('Upsample<mode="linear", scales=[1.0, 1.0, 1.0, 1.2]>(c)', 8, 3),
        ('Resize<mode="linear">(c, , , sizes)', 17, 2),
    ],
)
def test_a_resize_to_the_same_size_interpolates_all_the_same(resize, opset, left, tmp_path):
    """4 * 1.2 is 4 again, and each number is a mean of two neighbours; a scale by column can't pass that."""
    text = f"(float[2,1,2,6] x) => (float[2,1,2,4] y) {{ c = MatMul(x, w) r = {resize} y = Mul(r, s) }}"
    given = {"scales": np.array([1, 1, 1, 1.2], np.float32), "sizes": np.array([2, 1, 2, 4])}
    used = {name: array for name, array in given.items() if f" {name})" in resize}
    folded, _ = fold_and_check(model(text, opset, w=(6, 4), s=(4,), **used), tmp_path)
    assert len(kinds(folded)) == left


@pytest.mark.parametrize(
    ("norm", "opset", "why"),
    [
        ("y = BN<spatial=0>(c)", 7, "axis"),
        ("y = BN<spatial=0>(c)", 8, "axis"),
        ("y, m1, v1, m2, v2 = BatchNormalization(c, gamma, beta, mean, var)", 8, "training"),
    ],
)
def test_a_batch_normalization_of_old_files_that_is_no_affine_by_channel_stays(norm, opset, why):
    shape = (4, 6, 6) if "spatial" in norm else (4,)
    constants = {name: np.abs(numbers(name, shape)) + np.float32(0.1) for name in ("gamma", "beta", "mean", "var")}
    text = f"(float[2,3,8,8] x) => (float[2,4,6,6] y) {{ c = Conv(x, w) {norm} }}"
    result = fold_proto(model(text, opset, 3, **W, **constants))
    assert kinds(result.model) == ["Conv", "BatchNormalization"]
    assert why in [reason.why.code for kept in result.plan.kept for reason in kept.why]


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3] x) => (float[2,4] y) { c = Gemm<beta=0.0>(x, w, b) n = BN(c) y = Relu(n) }",
        "(float[2,4] x) => (float[2,4] y) { r = Relu(x) n = BN(r) y = Gemm<beta=0.0>(n, v, b) }",
    ],
    ids=["behind it", "before it"],
)
def test_a_bias_that_counts_for_nothing_takes_no_shift(text, tmp_path):
    proto = model(text, **({"w": (3, 4)} if "w," in text else {"v": (4, 4)}), b=(4,), **batch_norm(4))
    folded, result = fold_and_check(proto, tmp_path)
    assert "no-bias" in {reason.why.code for kept in result.plan.kept for reason in kept.why}
    assert "BatchNormalization" in kinds(folded)


@pytest.mark.parametrize(
    ("equation", "operands", "shapes"),
    [
        ("...i,io->...o", "r, w", {"w": (3, 4)}),
        ("io,nti", "w, r", {"w": (3, 4)}),
        ("nti,ii->nti", "r, w", {"w": (3, 3)}),
        ("nti,io,op->ntp", "r, w, v", {"w": (3, 4), "v": (4, 4)}),
        ("nti,nti->nti", "r, r", {}),
        ("nti->nit", "r", {}),
    ],
)
def test_a_sum_of_products_that_is_no_plain_linear_layer_takes_nothing(equation, operands, shapes, tmp_path):
    text = f"""(float[2,3,3] x) => (float[a,b,c] y)
        {{ r = Relu(x) c = Einsum<equation="{equation}">({operands}) n = Mul(c, s) y = Relu(n) }}"""
    folded, _ = fold_and_check(model(text, s=np.array(-1.5, np.float32), **shapes), tmp_path)
    assert kinds(folded) == ["Relu", "Einsum", "Mul", "Relu"]


@pytest.mark.parametrize(("is_test", "left"), [(1, ["Conv"]), (0, ["Conv", "BatchNormalization"])])
def test_old_exporters_say_whether_a_batch_norm_trains(is_test, left):
    """An attribute of opset 6, which converted files still have: no runtime takes it there."""
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", 9, **W, **BN)
    proto.graph.node[1].attribute.append(helper.make_attribute("is_test", is_test))
    result = fold_proto(proto)
    assert kinds(result.model) == left
    assert [reason.why for kept in result.plan.kept for reason in kept.why] == [Why.TRAINING][is_test:]


def test_opsets_before_seven_are_refused_with_the_way_out():
    proto = model("(float[2,3,8,8] x) => (float[2,4,6,6] y) { c = Conv(x, w) y = BN<is_test=1>(c) }", 6, 3, **W, **BN)
    with pytest.raises(BnfoldError, match=r"has opset 6; wanted 7 or newer \(onnx\.version_converter\)"):
        fold_proto(proto)


def test_a_signalling_nan_is_one_like_any_other() -> None:
    """NumPy warns when it reads one, as PyTorch's uninitialised tensors and damaged data files hold them."""
    signalling = np.full(4, 0x7FA00000, np.uint32).view(np.float32)
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **(W | BN | {"var": signalling}))
    (kept,) = fold_proto(proto).plan.kept
    assert Why.NOT_FINITE in {reason.why for reason in kept.why}
