"""The certificate of a written ONNX file finds planted faults, and writes nothing then."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.adapters.onnx_audit import AuditError
from bnfold.adapters.onnx_content import Scaled, rounded
from bnfold.adapters.onnx_file import fold_file, fold_proto
from bnfold.affine import Affine
from bnfold.errors import BnfoldError
from bnfold.plan import ScaleWeight, SetBias, SetConstants
from tests.adapters.onnx_cases import batch_norm, model, numbers

BACK = "(float[N,4,8,8] x) => (float[N,6,8,8] y) { c = Conv<group=2, pads=[1,1,1,1]>(x, w, b) y = BN(c) }"
FORWARD = "(float[N,4,8,8] x) => (float[N,6,6,6] y) { d = BN(x) y = Conv<group=2>(d, w, b) }"

POSITIONS = (
    "(float[N,4,8,8] x) => (float[N,3,8,8] y) { s = Sigmoid(x) a = Add(s, p) d = BN(a) y = Conv<pads=[1,1,1,1]>(d, w) }"
)


def cases():
    shapes = {"w": (6, 2, 3, 3), "b": (6,)}
    return {"back": model(BACK, **shapes, **batch_norm(6)), "forward": model(FORWARD, **shapes, **batch_norm(4))}


def off_by_one_channel(edit):
    match edit:
        case ScaleWeight(out_factor=out, in_factor=ins):
            return replace(edit, out_factor=np.roll(out, 1), in_factor=np.roll(ins, 1))
        case SetBias(bias=bias):
            return replace(edit, bias=np.roll(bias, 1))
    return edit


def slightly_off(edit):
    match edit:
        case ScaleWeight(out_factor=out):
            return replace(edit, out_factor=out * (1 + 1e-6))
        case SetBias(bias=bias):
            return replace(edit, bias=bias * (1 + 1e-6))
    return edit


@pytest.mark.parametrize("name", ["back", "forward"])
@pytest.mark.parametrize("kind", [ScaleWeight, SetBias])
@pytest.mark.parametrize("fault", [off_by_one_channel, slightly_off])
def test_a_fault_in_an_edit_is_found(name, kind, fault):
    proto = cases()[name]
    plan = fold_proto(proto).plan
    wrong = replace(plan, edits=tuple(fault(edit) if isinstance(edit, kind) else edit for edit in plan.edits))
    with pytest.raises(AuditError, match="nothing was written"):
        fold_proto(proto, plan=wrong)


TWO = "(float[N,4,8,8] x) => (float[N,3,8,8] y) { c = Conv(x, v) d = BN(c, 1) e = Conv(d, w) y = BN(e, 2) }"


@pytest.mark.parametrize("tensor", ["v", "w"])
@pytest.mark.parametrize("place", [0, 7, -1], ids=["first", "inner", "last"])
def test_one_number_that_is_written_wrong_is_found(monkeypatch, tensor, place):
    """By its last two bits; the second tensor is the smaller one, whose block stands where the first's did."""
    shapes = {"v": (6, 4, 1, 1), "w": (3, 6, 1, 1)}
    proto = model(TWO, **shapes, **batch_norm(6, "1"), **batch_norm(3, "2"))
    right = Scaled.scaled

    def wrong(self, block, before, scratch):
        after = right(self, block, before, scratch)
        if self.shape == shapes[tensor]:
            after.reshape(-1).view(np.int32)[place] ^= 2
        return after

    monkeypatch.setattr(Scaled, "scaled", wrong)
    with pytest.raises(AuditError, match=f"{tensor}: 1 numbers"):
        fold_proto(proto)


@pytest.mark.parametrize("fault", [lambda x: np.roll(x, 1, -1), lambda x: x * (1 + 1e-6), lambda x: x[:1]])
def test_a_fault_in_data_is_found(fault):
    proto = model(POSITIONS, w=(3, 4, 3, 3), p=(4, 8, 8), **batch_norm(4))
    plan = fold_proto(proto).plan
    assert [type(edit) for edit in plan.edits if edit.node == "p"] == [SetConstants]
    wrong = tuple(SetConstants("p", {0: fault(edit.constants[0])}) if edit.node == "p" else edit for edit in plan.edits)
    with pytest.raises(AuditError, match="nothing was written"):
        fold_proto(proto, plan=replace(plan, edits=wrong))


@pytest.mark.parametrize("name", ["back", "forward"])
def test_a_fault_in_a_frame_is_found(name):
    proto = cases()[name]
    plan = fold_proto(proto).plan
    ((value, (frame,)),) = plan.frames.items()
    for wrong in (
        Affine(1, frame.scale * 1.000001, frame.shift),
        Affine(1, frame.scale, frame.shift + 1e-6),
        Affine(1, np.roll(frame.scale, 1), np.roll(frame.shift, 1)),
    ):
        with pytest.raises(AuditError, match="nothing was written"):
            fold_proto(proto, plan=replace(plan, frames={value: (wrong,)}))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_numbers_are_rounded_once_to_nearest_even(dtype):
    """Against exact rational arithmetic: no representable number is nearer."""
    from fractions import Fraction

    exact = np.random.default_rng(0).normal(size=300) * np.float64(2.0) ** np.arange(-20, 10).repeat(10)
    exact[:4] = [1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 2.0**-11 + 2.0**-45, -(1 + 2.0**-24 + 2.0**-50)]
    stored = rounded(exact, dtype)
    bits = stored.view(f"u{stored.dtype.itemsize}")
    for got, bit, value in zip(stored, bits, exact, strict=True):
        error = abs(Fraction(float(got)) - Fraction(float(value)))
        for other in (bit - 1, bit + 1):
            near = np.array([other], bits.dtype).view(stored.dtype)[0]
            distance = abs(Fraction(float(near)) - Fraction(float(value)))
            assert error < distance or (error == distance and bit % 2 == 0)


def test_bfloat16_weights(tmp_path):
    """ONNX Runtime's CPU provider has no kernel for them: the numbers themselves are held against float64."""
    import ml_dtypes

    shapes = {"w": (3, 4), "b": (4,), "s": (4,), "t": (4,)}
    given = {name: numbers(name, shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    proto = model("(bfloat16[N,3] x) => (bfloat16[N,4] y) { c = Gemm(x, w, b) d = Mul(c, s) y = Add(d, t) }", **given)
    onnx.save(proto, tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    folded = onnx.load(tmp_path / "folded.onnx")
    onnx.checker.check_model(folded, full_check=True)
    got = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in folded.graph.initializer}
    w, b, s, t = (given[name].astype(np.float64) for name in "wbst")
    assert set(got) == {"w", "b"}
    np.testing.assert_array_equal(got["w"], rounded(w * s, "bfloat16").astype(np.float64))
    np.testing.assert_array_equal(got["b"], rounded(b * s + t, "bfloat16").astype(np.float64))


@pytest.mark.parametrize("name", ["back", "forward"])
def test_a_given_plan_without_one_of_its_edits_is_refused(name):
    proto = cases()[name]
    plan = fold_proto(proto).plan
    for place in range(len(plan.edits)):
        with pytest.raises(BnfoldError, match="make it anew"):
            fold_proto(proto, plan=replace(plan, edits=(*plan.edits[:place], *plan.edits[place + 1 :])))


DEAD = {
    "all": (BACK, np.zeros(6, np.float32)),
    "some": (BACK, np.array([0, 2, 0, -1, 0.5, 0], np.float32)),
    "no bias": (BACK.replace(", b)", ")"), np.array([0, 2, 0, -1, 0.5, 0], np.float32)),
    "no bias, all": (BACK.replace(", b)", ")"), np.zeros(6, np.float32)),
    "behind a pooling": (
        BACK.replace("y = BN(c)", "p = MaxPool<kernel_shape=[1,1]>(c) y = BN(p)").replace(", b)", ")"),
        np.zeros(6, np.float32),
    ),
    "gemm": (
        "(float[N,2] x) => (float[N,6] y) { c = Gemm<beta=0.5>(x, w, b) y = BN(c) }",
        np.array([0, 2, 0, -1, 0.5, 0], np.float32),
    ),
}


def nothing(edit):
    return None


@pytest.mark.parametrize("fault", [nothing, off_by_one_channel, slightly_off])
@pytest.mark.parametrize("case", DEAD)
def test_a_fault_in_the_bias_of_channels_that_are_nothing_is_found(case, fault):
    text, gamma = DEAD[case]
    weight = (2, 6) if case == "gemm" else (6, 2, 3, 3)
    constants = {"w": weight, "b": (6,), **batch_norm(6), "gamma": gamma}
    if ", b)" not in text:
        del constants["b"]
    proto = model(text, **constants)
    plan = fold_proto(proto).plan
    edits = [fault(edit) if isinstance(edit, SetBias) else edit for edit in plan.edits]
    wrong = replace(plan, edits=tuple(edit for edit in edits if edit is not None))
    with pytest.raises(BnfoldError, match=r"^c: .*(nothing was written|make it anew)"):
        fold_proto(proto, plan=wrong)


def test_what_is_behind_channels_that_are_nothing_may_be_computed():
    """A BatchNorm that stays, whose mean nobody knows: the shift has come out before."""
    text = """(float[N,4,8,8] x, float[6] m) => (float[N,6,8,8] y) {
        c = Conv<group=2, pads=[1,1,1,1]>(x, w) d = BN(c) e = BatchNormalization(d, var, beta, m, var) y = Relu(e) }"""
    gamma = np.array([0, 2, 0, -1, 0.5, 0], np.float32)
    plan = fold_proto(model(text, w=(6, 2, 3, 3), **batch_norm(6) | {"gamma": gamma})).plan
    assert [outcome.affine for outcome in plan.folded] == ["d"]


def test_a_channel_that_somebody_sees_can_not_be_made_nothing():
    """The plan says so throughout: in its frames, in the weight and in the bias."""
    text, _ = DEAD["some"]
    gamma = np.array([0, 2, 0, -1, 0.5, 0], np.float32)
    proto = model(text, w=(6, 2, 3, 3), b=(6,), **batch_norm(6) | {"gamma": gamma})
    plan = fold_proto(proto).plan
    frame = plan.frames["c"][0]
    off = np.where(np.arange(6) == 1, 0.0, 1.0)
    frames = {"c": (Affine(frame.axis, frame.scale * off, frame.shift * off),)}
    edits = [
        replace(edit, out_factor=edit.out_factor * off) if isinstance(edit, ScaleWeight) else edit
        for edit in plan.edits
    ]
    with pytest.raises(AuditError, match="channels of scale 0 that somebody sees; nothing was written"):
        fold_proto(proto, plan=replace(plan, edits=tuple(edits), frames=frames))
