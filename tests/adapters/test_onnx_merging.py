"""Parallel branches of ONNX files become one convolution, the same function at every level of the runtime."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.adapters.onnx_file import fold_file, fold_proto, raised_for_onnx, read
from bnfold.folding import fold
from bnfold.merging import fused_after
from bnfold.plan import Merge
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model, numbers, run

REPVGG = """(float[N,4,7,9] x) => (float[N,4,7,9] y) {
  r = Relu(x)
  a = Conv<pads=[1,1,1,1]>(r, w3)
  b = BN(a, 1)
  c = Conv(r, w1, c1)
  d = BN(c, 2)
  e = BN(r, 3)
  s = Add(b, d)
  y = Add(s, e)
}"""
THREE = {**batch_norm(4, "1"), **batch_norm(4, "2"), **batch_norm(4, "3")}
CASES = [
    pytest.param(REPVGG, {"w3": (4, 4, 3, 3), "w1": (4, 4, 1, 1), "c1": (4,), **THREE}, ["Relu", "Conv"], id="repvgg"),
    pytest.param(
        """(float[N,4,7,9] x) => (float[N,4,7,9] y) { a = Conv<pads=[1,1,1,1]>(x, w3) s = Add(x, a) y = BN(s) }""",
        {"w3": (4, 4, 3, 3), **batch_norm(4)},
        ["Conv"],
        id="BatchNorm behind the sum, at an output",
    ),
    pytest.param(
        """(float[N,4,7,9] x) => (float[N,4,4,5] y) {
             a = Conv<pads=[1,1,1,1], strides=[2,2], group=2>(x, w3) b = Conv<strides=[2,2], group=2>(x, w1)
             s = Sub(a, b) y = Relu(s) }""",
        {"w3": (4, 2, 3, 3), "w1": (4, 2, 1, 1)},
        ["Conv", "Relu"],
        id="strides, groups, a difference",
    ),
    pytest.param(
        """(float[N,4,9] x) => (float[N,4,9] y, float[N,4,9] z) {
             a = Conv<pads=[1,1]>(x, w3) y = Add(a, x) z = Relu(y) }""",
        {"w3": (4, 4, 3)},
        ["Conv", "Relu"],
        id="one spatial axis, an output that is read on",
    ),
    pytest.param(
        """(float[N,4,7,9] x) => (float[N,4,7,9] y) {
             a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[1,1,1,1]>(x, w) s = Sum(a, b, x) y = Relu(s) }""",
        {"w": (4, 4, 3, 3)},
        ["Conv", "Relu"],
        id="a shared weight",
    ),
    pytest.param(
        """(float[N,4,9,9] x) => (float[N,4,9,9] y) {
             a = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w) b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, v)
             s = Sum(a, b, x) y = Relu(s) }""",
        {"w": (4, 4, 3, 3), "v": (4, 4, 3, 3)},
        ["Conv", "Relu"],
        id="dilations that agree",
    ),
    *(
        pytest.param(
            f"""(float[N,4,7,9] x) => (float[N,4,7,9] y) {{
                  a = Conv<auto_pad="{mode}">(x, w4) b = Conv<auto_pad="{mode}">(x, w2)
                  c = Conv(x, w1) d = BN(b) s = Sum(a, c, d, x) y = Relu(s) }}""",
            {"w4": (4, 4, 4, 3), "w2": (4, 4, 2, 1), "w1": (4, 4, 1, 1), **batch_norm(4)},
            ["Conv", "Relu"],
            id=f"even kernels, {mode}",
        )
        for mode in ("SAME_UPPER", "SAME_LOWER")
    ),
]


@pytest.mark.parametrize(("text", "tensors", "left"), CASES)
def test_one_convolution_is_left(text: str, tensors: dict[str, object], left: list[str], tmp_path: Path) -> None:
    folded, result = fold_and_check(model(text, **tensors), tmp_path)
    assert kinds(folded) == left
    assert result.plan.kept == ()
    assert {item.name for item in folded.graph.initializer} == {
        name for node in folded.graph.node for name in node.input[1:]
    }


def test_dilations_that_disagree_stay_two_convolutions(tmp_path: Path) -> None:
    text = """(float[N,4,9,9] x) => (float[N,4,9,9] y) {
        a = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w) b = Conv<pads=[1,1,1,1]>(x, v) s = Add(a, b) y = Relu(s) }"""
    folded, _ = fold_and_check(model(text, w=(4, 4, 3, 3), v=(4, 4, 3, 3)), tmp_path)
    assert kinds(folded) == ["Conv", "Conv", "Add", "Relu"]


def test_padding_that_depends_on_the_sizes_stays(tmp_path: Path) -> None:
    text = """(float[N,4,h,w] x) => (float[N,4,i,j] y) {
        a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w3) b = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w1)
        s = Add(a, b) y = Relu(s) }"""
    folded, _ = fold_and_check(model(text, w3=(4, 4, 3, 3), w1=(4, 4, 1, 1)), tmp_path)
    assert kinds(folded) == ["Conv", "Conv", "Add", "Relu"]


def test_it_can_be_left_out(tmp_path: Path) -> None:
    text, tensors, _ = CASES[0].values
    folded, _ = fold_and_check(model(text, **tensors), tmp_path, merge=False)
    assert kinds(folded).count("Conv") == 2


def test_the_written_numbers_are_the_merged_ones_rounded_once() -> None:
    text, tensors, _ = CASES[0].values
    proto = model(text, **tensors)
    graph = raised_for_onnx(read(proto))
    plan = fold(graph, merge=True)
    (merge,) = (edit for edit in plan.edits if isinstance(edit, Merge))
    weight, bias = fused_after(graph, plan, merge)
    result = fold_proto(proto, plan=plan).model
    node = next(node for node in result.graph.node if node.op_type == "Conv")
    stored = read(result).constants
    np.testing.assert_array_equal(stored[node.input[1]].load(), weight.astype(np.float32))
    np.testing.assert_array_equal(stored[node.input[2]].load(), bias.astype(np.float32))
    assert not np.array_equal(weight, weight.astype(np.float32))


def test_branches_of_what_has_no_known_shape(tmp_path: Path) -> None:
    """Outside of a body nothing tells the shape; the layer inside does."""
    text = """(float[2,4,7,9] x, int64[k] s, bool f) => (float[a,b,c,d] y) {
        r = Reshape(x, s) y = If(f)<
            then_branch = t () => (float[a,b,c,d] p) { a = Conv<pads=[1,1,1,1]>(r, w) p = Add(a, r) },
            else_branch = e () => (float[a,b,c,d] q) { q = Relu(r) }> }"""
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(model(text, w=(4, 4, 3, 3)), source)
    assert len(fold_file(source, target).plan.merges) == 1
    x = np.random.default_rng(0).normal(size=(2, 4, 7, 9)).astype(np.float32)
    feeds = {"x": x, "s": np.array(x.shape), "f": np.array(True)}
    np.testing.assert_allclose(run(target, feeds)[0], run(source, feeds)[0], atol=1e-5)


def test_branches_of_what_has_channels_by_a_name(tmp_path: Path) -> None:
    text = "(float[2,c,7,9] x) => (float[2,4,7,9] z) { a = Conv<pads=[1,1,1,1]>(x, k) z = Add(a, x) }"
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(model(text, k=(4, 4, 3, 3)), source)
    assert len(fold_file(source, target).plan.merges) == 1
    x = np.random.default_rng(0).normal(size=(2, 4, 7, 9)).astype(np.float32)
    np.testing.assert_allclose(run(target, {"x": x})[0], run(source, {"x": x})[0], atol=1e-5)


def test_weights_below_the_smallest_normal_number_are_merged(tmp_path: Path) -> None:
    text = """(float16[2,4,7,9] x) => (float16[2,4,7,9] y, float16[2,4,7,9] z) {
        z = BN(x, 2) a = Conv<pads=[1,1,1,1]>(x, w) b = BN(a) y = Add(b, x) }"""
    weight = numbers("w", (4, 4, 3, 3), "float16")
    weight[:, :2] *= 1e-5
    proto = model(text, w=weight, **batch_norm(4, dtype="float16"), **batch_norm(4, "2", "float16"))
    _, result = fold_and_check(proto, tmp_path)
    assert len(result.plan.merges) == 1
