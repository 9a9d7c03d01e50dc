"""Max and Min with a constant: what `--level max` makes of a ReLU, and folds again."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import numpy_helper

from bnfold.adapters.onnx_file import fold_proto
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model, numbers

IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
W = {"w": (4, 3, 3, 3)}
MIXED = np.array([1.5, -0.5, 2, -3], np.float32).reshape(4, 1, 1)
LO, HI = numbers("lo", (4, 1, 1)) - 2, numbers("hi", (4, 1, 1)) + 2


def arrays(proto):
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def constant_of(proto, kind):
    node = next(node for node in proto.graph.node if node.op_type == kind)
    return arrays(proto)[node.input[1]]


@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "negative"])
def test_bounds_follow_a_frame_that_must_pass(sign, level, tmp_path):
    """The BatchNorm behind has no layer but the convolution before the clip."""
    text = IMAGE + "{ c = Conv(x, w) k = Max(c, lo) m = Mul(k, s) y = Sigmoid(m) }"
    proto = model(text, s=sign * np.abs(MIXED), lo=LO, **W)
    folded, result = fold_and_check(proto, tmp_path, level=level)
    if sign < 0 and level == "default":
        assert kinds(folded) == ["Conv", "Max", "Mul", "Sigmoid"]
        assert "order" in [reason.why.code for reason in result.plan.kept[0].why]
    else:
        assert kinds(folded) == ["Conv", "Max" if sign > 0 else "Min", "Sigmoid"]
        assert_allclose(constant_of(folded, kinds(folded)[1]), LO * sign * np.abs(MIXED), rtol=1e-6)


def test_signs_of_both_kinds_want_both_sides(tmp_path):
    text = IMAGE + "{ c = Conv(x, w) k = Max(c, lo) m = Mul(k, s) y = Sigmoid(m) }"
    proto = model(text, s=MIXED, lo=LO, **W)
    kept, _ = fold_and_check(proto, tmp_path)
    assert kinds(kept) == ["Conv", "Max", "Mul", "Sigmoid"]
    folded, _ = fold_and_check(proto, tmp_path, level="max")
    assert kinds(folded) == ["Conv", "Max", "Min", "Sigmoid"]


def test_max_and_min_that_follow_each_other_are_one_clip(tmp_path):
    text = IMAGE + "{ c = Conv(x, w) k = Max(c, lo) l = Min(k, hi) m = Mul(l, s) y = Sigmoid(m) }"
    folded, _ = fold_and_check(model(text, s=MIXED, lo=LO, hi=HI, **W), tmp_path)
    assert kinds(folded) == ["Conv", "Max", "Min", "Sigmoid"]
    low, high = np.sort([LO * MIXED, HI * MIXED], axis=0)
    assert_allclose(constant_of(folded, "Max"), low, rtol=1e-6)
    assert_allclose(constant_of(folded, "Min"), high, rtol=1e-6)


def test_crossed_bounds_are_not_joined(tmp_path):
    """min(max(x, lo), hi) is hi where lo > hi; the other order would make it lo."""
    text = IMAGE + "{ c = Conv(x, w) k = Max(c, hi) l = Min(k, lo) m = Mul(l, s) y = Sigmoid(m) }"
    folded, _ = fold_and_check(model(text, s=MIXED, lo=LO, hi=HI, **W), tmp_path)
    assert kinds(folded) == ["Conv", "Max", "Min", "Mul", "Sigmoid"]


def test_the_result_of_level_max_folds_again(tmp_path):
    """A BatchNorm, a ReLU that becomes a clip; then another affine is put behind, and goes through that clip."""
    proto = model(IMAGE + "{ c = Conv(x, w) r = Relu(c) n = BN(r) y = Sigmoid(n) }", **W, **batch_norm(4))
    folded, _ = fold_and_check(proto, tmp_path, level="max")
    assert kinds(folded) == ["Conv", "Max", "Min", "Sigmoid"]
    again = onnx.ModelProto()
    again.CopyFrom(folded)
    again.graph.node[3].input[0] = "more"
    again.graph.node.insert(3, onnx.helper.make_node("Mul", [folded.graph.node[2].output[0], "s"], ["more"]))
    again.graph.initializer.append(numpy_helper.from_array(np.abs(MIXED), "s"))
    twice, _ = fold_and_check(again, tmp_path)
    assert kinds(twice) == ["Conv", "Max", "Min", "Sigmoid"]


def test_scalar_bounds_are_those_of_a_clip(tmp_path):
    text = IMAGE + "{ c = Conv(x, w) k = Max(c, zero) m = Mul(k, s) y = Sigmoid(m) }"
    proto = model(text, s=np.abs(MIXED), zero=np.array(0, np.float32), **W)
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "Max", "Sigmoid"]
    text = IMAGE + "{ c = Conv(x, w) k = Max(c, half) l = Min(k, two) m = Mul(l, s) y = Sigmoid(m) }"
    proto = model(text, s=np.array(-3, np.float32), half=np.array(0.5, np.float32), two=np.array(2, np.float32), **W)
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "Max", "Min", "Sigmoid"]
    assert (constant_of(folded, "Max"), constant_of(folded, "Min")) == (-6, -1.5)


@pytest.mark.parametrize(
    "text",
    [
        "{ c = Conv(x, w) k = Max(c, x2) m = Mul(k, s) y = Sigmoid(m) }",
        "{ c = Conv(x, w) k = Max(c, wide) m = Mul(k, s) y = Sigmoid(m) }",
        "{ c = Conv(x, w) k = Max(c, lo, lo2) m = Mul(k, s) y = Sigmoid(m) }",
        "{ c = Conv(x, w) k = Max(c, none) m = Mul(k, s) y = Sigmoid(m) }",
    ],
    ids=["of two tensors", "a bound along two axes", "of three", "NaN"],
)
def test_what_is_no_clip_stays(text, tmp_path):
    image = "(float[N,3,8,8] x, float[N,4,6,6] x2) => (float[N,4,h,w] y)"
    tensors = {"lo": LO, "lo2": LO + 1, "wide": numbers("wide", (4, 6, 1)), "none": LO * np.nan}
    used = {name: array for name, array in tensors.items() if name in text}
    proto = model(image + text, s=np.abs(MIXED), **W, **used)
    assert kinds(fold_proto(proto).model) == ["Conv", "Max", "Mul", "Sigmoid"]


def test_bounds_that_may_be_overridden_stay(tmp_path):
    text = "(float[N,3,8,8] x, float[4,1,1] lo) => (float[N,4,h,w] y)"
    text += "{ c = Conv(x, w) k = Max(c, lo) m = Mul(k, s) y = Sigmoid(m) }"
    proto = model(text, s=np.abs(MIXED), **W, lo=LO)
    assert kinds(fold_proto(proto).model) == ["Conv", "Max", "Mul", "Sigmoid"]
    assert kinds(fold_proto(proto, freeze_inputs=True).model) == ["Conv", "Max", "Sigmoid"]


def test_opset_seven_has_no_bounds_by_channel(tmp_path):
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) k = Max(c, lo) m = Mul(k, s) y = Sigmoid(m) }"
    lo = np.broadcast_to(LO, (1, 4, 6, 6)).copy()
    proto = model(text, 7, 3, s=np.abs(MIXED), **W, lo=lo)
    assert kinds(fold_proto(proto).model) == ["Conv", "Max", "Mul", "Sigmoid"]


def test_a_clip_of_one_side_takes_a_negative_scale(tmp_path):
    """At level max a Clip becomes Max and Min by channel: the side that a channel has depends on its sign."""
    text = IMAGE + "{ c = Conv(x, w) k = Clip(c, half) m = Mul(k, s) y = Sigmoid(m) }"
    proto = model(text, s=MIXED, half=np.array(0.5, np.float32), **W)
    folded, _ = fold_and_check(proto, tmp_path, level="max")
    assert kinds(folded) == ["Conv", "Max", "Min", "Sigmoid"]
    proto = model(text, s=-np.abs(MIXED), half=np.array(0.5, np.float32), **W)
    folded, _ = fold_and_check(proto, tmp_path, level="max")
    assert kinds(folded) == ["Conv", "Min", "Sigmoid"]
    assert_allclose(constant_of(folded, "Min"), -0.5 * np.abs(MIXED), rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize(
    ("given", "left"),
    [({"min": -0.5, "max": 2}, {"min": -6, "max": 1.5}), ({"min": -0.5}, {"max": 1.5}), ({"max": 2}, {"min": -6})],
    ids=["both", "below", "above"],
)
def test_the_bounds_of_a_clip_are_attributes_or_operands(given, left, opset, tmp_path):
    bounds = {name: np.array(number, np.float32) for name, number in given.items()}
    attributes = ", ".join(f"{name}={float(number)}" for name, number in given.items())
    operands = ", ".join(name if name in given else "" for name in ("min", "max")).removesuffix(", ")
    clip = f"Clip<{attributes}>(c)" if opset < 11 else f"Clip(c, {operands})"
    text = IMAGE + f"{{ c = Conv(x, w) k = {clip} m = Mul(k, s) y = Sigmoid(m) }}"
    proto = model(text, opset, **W, s=np.array(-3, np.float32), **(bounds if opset > 10 else {}))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "Clip", "Sigmoid"]
    node = folded.graph.node[1]
    if opset < 11:
        assert {item.name: item.f for item in node.attribute} == left
    else:
        told = zip(("min", "max"), node.input[1:], strict=False)
        assert {name: float(arrays(folded)[which]) for name, which in told if which} == left
