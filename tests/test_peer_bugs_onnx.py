"""Every silent wrong fold of other ONNX tools that is known: here it is right, or it is refused for a reason."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.adapters.onnx_file import fold_file
from bnfold.checking.torch_onnx import OnnxSubject
from bnfold.plan import Plan
from bnfold.why import Why
from tests.adapters.onnx_cases import CLOSE, batch_norm, feeds_of, fold_and_check, kinds, model, numbers, run

IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
SQUARE = "(float[4,3,6,6] x) => (float[4,4,4,4] y)"  # batch, channels, height and width of y are 4
ROWS = "(float[N,3] x) => (float[N,4] y)"
W: Mapping[str, object] = {"w": (4, 3, 3, 3)}
M: Mapping[str, object] = {"w": (3, 4)}
B: Mapping[str, object] = {"b": (4,)}
BN = batch_norm(4)
HALF = batch_norm(4, dtype="float16")


def folded(proto: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, Plan]:
    """Fold from file to file; the result is valid, keeps the interface, and is the same function in float64."""
    source, target = folder / "model.onnx", folder / "folded.onnx"
    onnx.save(proto, source)
    result = fold_file(source, target)
    found = onnx.load(target)
    onnx.checker.check_model(found, full_check=not proto.graph.sparse_initializer)  # which shape inference can't read
    assert list(found.graph.input) == list(proto.graph.input)
    assert [item.name for item in found.graph.output] == [item.name for item in proto.graph.output]
    feeds = feeds_of(proto)
    subject = OnnxSubject(proto, "model")
    truth = subject.truth([feeds[spec.name] for spec in subject.inputs])
    for name, got in zip(truth, run(target, feeds), strict=True):
        size = np.abs(truth[name]).max()
        assert np.abs(got - truth[name]).max() <= CLOSE[got.dtype.name] * size, name
    return found, result.plan


def agrees(plan: Plan, wanted: Mapping[str, Why | None]) -> None:
    """Compare each affine's outcome: None is folded, else one of the reasons why it stays."""
    found = {outcome.affine: {reason.why for reason in outcome.why} for outcome in plan.kept}
    found |= {outcome.affine: set() for outcome in plan.folded}
    assert set(found) == set(wanted)
    for name, why in wanted.items():
        assert (not found[name]) if why is None else why in found[name], f"{name}: {found[name]}"


CASES = [
    pytest.param(
        "(float[4,3] x) => (float[4,4] y) { c = MatMul(x, w) d = Transpose<perm=[1,0]>(c) y = BN(d) }",
        M | BN,
        {"y": Why.INPUT},
        id="matmul, transpose, bn: the channels are the rows",
    ),
    pytest.param(
        "(float[2,3] x) => (float[1,4,2] y) { c = MatMul(x, w) d = Reshape(c, s) y = BN(d) }",
        M | BN | {"s": np.array([1, 4, 2])},
        {"y": Why.INPUT},
        id="matmul, reshape, bn: a channel holds several",
    ),
    *(
        pytest.param(
            f"{SQUARE} {{ c = Conv(x, w) y = {kind}(c, s) }}",
            W | {"s": shape},
            {"y": why},
            id=f"conv, {kind} by a number for each {what}",
        )
        for kind in ("Mul", "Add", "Div")
        for what, shape, why in (
            ("column", (4,), Why.AXIS),
            ("row", (4, 1), Why.AXIS),
            ("sample", (4, 1, 1, 1), Why.AXIS if kind == "Add" else Why.OUTPUT),  # a scale could pass to the input
        )
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) c_weight = Relu(x) c_bias = BN(c) e = Conv(c_weight, w) y = Add(c_bias, e) }",
        W | BN,
        {"c_bias": None},
        id="names that a tool would take",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) y, m, v = BN<training_mode=1>(c) }", W | BN, {"y": Why.TRAINING}, id="training mode"
    ),
    pytest.param(
        "(float[N,3,8,8] x) => (float[N,4,h,w] y, float[4,3,3,3] w) { c = Conv(x, w) y = BN(c) }",
        W | BN,
        {"y": None},
        id="a weight that is an output",
    ),
    pytest.param(IMAGE + "{ c = Conv(x, w, ) y = BN(c) }", W | BN, {"y": None}, id="an empty bias"),
    pytest.param(
        "(float16[N,3,8,8] x) => (float16[N,4,h,w] y) { c = Conv(x, w) y = BN(c) }",
        {"w": numbers("w", (4, 3, 3, 3), "float16"), **HALF, "mean": BN["mean"], "var": BN["var"]},
        {"y": None},
        id="float16 with statistics in float32",
    ),
    pytest.param(
        "(float16[N,3,8,8] x) => (float16[N,4,h,w] y) { c = Conv(x, w) y = BN<epsilon=0.00000001>(c) }",
        {
            "w": numbers("w", (4, 3, 3, 3), "float16"),
            **HALF,
            "gamma": np.array([2, -1, 0.01, 1], np.float16),
            "var": np.array([0.5, 2, 0, 1], np.float16),
        },
        {"y": None},
        id="float16 with an epsilon that is 0 there",
    ),
    pytest.param(
        "(float[N,3,8,8] x) => (float[1,N,4,h,w] y) { c = Conv(x, w) y = Mul(c, s) }",
        W | {"s": (1, 1, 1, 1, 1)},
        {},
        id="a product that adds an axis",
    ),
    pytest.param(
        IMAGE + "{ v = Constant<value_floats=[0.5, 1.0, 1.5, 2.0]>() c = Conv(x, w)"
        " y = BatchNormalization(c, gamma, beta, mean, v) }",
        W | {name: BN[name] for name in ("gamma", "beta", "mean")},
        {"y": None},
        id="value_floats",
    ),
    pytest.param(
        ROWS + "{ c = Gemm<alpha=0.5, beta=2.0>(x, w, b) y = BN(c) }",
        M | B | BN,
        {"y": None},
        id="gemm, alpha and beta",
    ),
    pytest.param(
        ROWS + "{ c = BN(x) y = Gemm<alpha=0.5, beta=2.0>(c, w, b) }",
        M | B | batch_norm(3),
        {"c": None},
        id="and forward",
    ),
    pytest.param(
        IMAGE + '{ c = BN(x) y = Conv<auto_pad="SAME_UPPER">(c, w) }', W | batch_norm(3), {"c": Why.PADDING}, id="SAME"
    ),
    pytest.param(
        IMAGE + "{ c = BN(x) y = Conv<pads=[1,1,1,1]>(c, w) }", W | batch_norm(3), {"c": Why.PADDING}, id="padded conv"
    ),
    pytest.param(
        IMAGE + "{ c = BN(x) d = Pad(c, p) y = Conv(d, w) }",
        W | batch_norm(3) | {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        {"c": Why.FILL},
        id="pad, conv",
    ),
    pytest.param(IMAGE + "{ c = Conv(x, w) y = Div(s, c) }", W | {"s": (4, 1, 1)}, {}, id="a constant divided by conv"),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) y = Sub(s, c) }", W | {"s": (4, 1, 1)}, {"y": None}, id="a constant less conv"
    ),
    pytest.param(
        "(float[N,4,5,5] x) => (float[N,4,h,w] y) { c = ConvTranspose<group=4>(x, w) y = BN(c) }",
        {"w": (4, 1, 3, 3)} | BN,
        {"y": None},
        id="depthwise transposed",
    ),
    pytest.param(
        "(float[N,4,5,5] x) => (float[N,6,h,w] y) { c = ConvTranspose<group=2>(x, w) y = BN(c) }",
        {"w": (4, 3, 3, 3)} | batch_norm(6),
        {"y": None},
        id="transposed with groups",
    ),
    pytest.param(
        IMAGE[:-1] + ", float[N,4,h,w] c) { c = Conv(x, w) y = BN(c) }",
        W | BN,
        {"y": Why.OUTPUT},
        id="conv is an output",
    ),
    pytest.param(
        IMAGE[:-1] + ", float[N,4,h,w] z) { c = Conv(x, w) y = BN(c) z = BN(c, 2) }",
        W | BN | batch_norm(4, "2"),
        {"y": None, "z": Why.OUTPUT},
        id="two bns on one conv",
    ),
    pytest.param(
        IMAGE[:-1] + ", float[N,4,h,w] z) { c = Conv(x, w) y = BN(c) n = Sigmoid(x) z = Conv(n, w) }",
        W | BN,
        {"y": None},
        id="a weight that another conv shares",
    ),
]


@pytest.mark.parametrize(("text", "tensors", "wanted"), CASES)
def test_folded_right_or_refused(
    text: str, tensors: Mapping[str, object], wanted: Mapping[str, Why | None], tmp_path: Path
) -> None:
    _, plan = folded(model(text, **tensors), tmp_path)
    agrees(plan, wanted)


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 22])
def test_every_opset(opset: int, tmp_path: Path) -> None:
    found, plan = folded(model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", opset, **W, **BN), tmp_path)
    assert kinds(found) == ["Conv"]
    agrees(plan, {"y": None})


@pytest.mark.parametrize("name", ["w", "gamma", "var"])
def test_what_a_caller_may_override_stays(name: str, tmp_path: Path) -> None:
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN)
    shape = next(tensor.dims for tensor in proto.graph.initializer if tensor.name == name)
    proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    found, plan = folded(proto, tmp_path)
    assert kinds(found) == ["Conv", "BatchNormalization"]
    agrees(plan, {"y": Why.OVERRIDABLE})


def test_a_sparse_weight(tmp_path: Path) -> None:
    proto = model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN)
    dense = numpy_helper.to_array(proto.graph.initializer[0])
    del proto.graph.initializer[0]
    values = numpy_helper.from_array(dense.reshape(-1)[::2].copy(), "w")
    indices = numpy_helper.from_array(np.arange(0, dense.size, 2), "w_indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, dense.shape))
    folded(proto, tmp_path)


def test_a_loop_around_it(tmp_path: Path) -> None:
    """What is carried through a loop is the loop's; the BatchNormalization in its body is folded into its Conv."""
    body = """
        b (int64 i, bool go, float[N,3,8,8] old) => (bool stay, float[N,3,8,8] new)
        { stay = Identity(go) c = Conv<pads=[1,1,1,1]>(old, w) new = BN(c) }"""
    text = f"(float[N,3,8,8] x) => (float[N,3,8,8] y) {{ y = Loop (trips, , x) <body = {body}> }}"
    proto = model(text, w=numbers("w", (3, 3, 3, 3)) / 4, trips=np.array(2), **batch_norm(3))
    found, result = fold_and_check(proto, tmp_path)
    assert kinds(found) == ["Loop"]
    agrees(result.plan, {"y.body/new": None})


def faults() -> Mapping[str, Callable[[onnx.TensorProto], onnx.TensorProto]]:
    """Ways in which a folded tensor can be wrong."""

    def changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.TensorProto], onnx.TensorProto]:
        return lambda tensor: numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name)

    return {
        "scaled": changed(lambda w: w * np.float32(1.001)),
        "channels swapped": changed(lambda w: w[::-1].copy()),
        "transposed": changed(lambda w: np.ascontiguousarray(w.swapaxes(2, 3)) if w.ndim == 4 else w[::-1].copy()),
    }


@pytest.mark.parametrize("fault", faults())
def test_a_fault_would_be_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = fold_file

    def faulty(source: Path, target: Path) -> object:
        result = fold(source, target)
        proto = onnx.load(target)
        proto.graph.initializer[0].CopyFrom(faults()[fault](proto.graph.initializer[0]))
        onnx.save(proto, target)
        return result

    monkeypatch.setitem(folded.__globals__, "fold_file", faulty)
    with pytest.raises(AssertionError):
        folded(model(IMAGE + "{ c = Conv(x, w) y = BN(c) }", **W, **BN), tmp_path)
