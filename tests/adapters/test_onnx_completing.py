"""Shapes that ONNX's inference leaves out, behind an If or a Loop, and that the operators tell."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, parser

from bnfold.adapters.onnx_completing import completed, of_branches, told_by_weight
from bnfold.adapters.onnx_file import fold_file
from bnfold.graph import Constant, Value
from tests.adapters.onnx_cases import batch_norm, feeds_of, fold_and_check, kinds, model, run

FOUR = (None, 6, "h", None)
UNKNOWN = Value("y", None, "unknown")
# Inference knows nothing of r, a Reshape to what only the run knows, nor of what comes of it.
BEHIND_AN_IF = """
        s = Shape(x) i = Compress(s, all) r = Reshape(x, i)
        v = If(flag) <
            then_branch = t () => (float[] a) { a = Conv<kernel_shape=[1,1]>(r, u) },
            else_branch = e () => (float[] b) { d = Conv<kernel_shape=[1,1]>(r, u) b = Relu(d) }
        >
"""


def value(*shape):
    return Value("x", shape, "float32")


def constant(*shape):
    return Constant("c", shape, "float32", lambda: np.zeros(shape))


@pytest.mark.parametrize(
    ("text", "operands", "shape"),
    [
        ("Relu(x)", [value(*FOUR)], FOUR),
        ("Sub(c, x)", [constant(6, 1, 1), value(*FOUR)], FOUR),
        ("Mul(x, c)", [value(*FOUR), constant()], FOUR),
        ("Add(a, x)", [value(None, 6, 1, 1), value("n", 6, "h", None)], (None, 6, "h", None)),
        ("Add(a, x)", [value("n", 6), value("m", 6)], (None, 6)),
        ("Add(a, x)", [value(6, None), value("n", 6, 5)], ("n", 6, 5)),
        ("Max(a, b, c)", [value("n", 1), value("n", 6), value(6)], ("n", 6)),
        ("Conv(x, w)", [Value("x", None, "unknown"), constant(4, 3, 3, 3)], (None, 4, None, None)),
        ("ConvTranspose<group=2>(x, w)", [value("n", 6, 5), constant(6, 4, 3)], ("n", 8, None)),
        ("MatMul(x, w)", [value("n", 5, 6), constant(6, 4)], ("n", 5, 4)),
        ("MatMul(x, w)", [value("n", 5, 6), value(6, 4)], None),
        ("Gemm(x, w)", [Value("x", None, "float32"), constant(6, 4)], (None, 4)),
        ("Gemm<transB=1>(x, w, b)", [value("n", 6), constant(4, 6), constant(4)], (None, 4)),
        ("Concat<axis=1>(a, b)", [value("n", 6, None), value(None, 2, 5)], (None, 8, 5)),
        ("Concat<axis=-1>(a, b)", [value("n", 6), value("n", None)], (None, None)),
        ("Concat<axis=1>(a, b)", [value("n", 6), value("n", 6, 1)], None),
        ("AveragePool(x)", [value("n", 6, 5, 5)], ("n", 6, None, None)),
        ("GlobalAveragePool(x)", [value("n", 6, 5, "w")], ("n", 6, 1, 1)),
        ("Add(a, x)", [Value("a", None, "float32"), value("n", 6)], None),
        ("Where(a, x)", [value("n", 6), value("n", 6)], None),
    ],
)
def test_an_operator_tells_its_outputs_shape(text, operands, shape):
    (node,) = parser.parse_graph(f"g (float[N] x) => (float[M] y) {{ y = {text} }}").node
    assert completed(UNKNOWN, node.op_type, node, operands).shape == shape


def test_a_symbol_gives_way_to_a_number_and_nothing_else_changes():
    (node,) = parser.parse_graph("g (float[N] x) => (float[M] y) { y = MatMul(x, w) }").node
    made = Value("y", ("n", "unk__1"), "float32")
    operands = [value("m", 6), constant(6, 4)]
    assert completed(made, "MatMul", node, operands) == Value("y", ("n", 4), "float32")
    other_rank = Value("y", ("n", "unk__1", 3), "float32")
    assert completed(other_rank, "MatMul", node, operands) == other_rank
    settled = Value("y", ("n", 7), "float32")
    assert completed(settled, "MatMul", node, operands) == settled


@pytest.mark.parametrize(
    ("text", "before", "weight", "after"),
    [
        ("BatchNormalization(x, w, w, w, w)", ("n", None, "h"), (6,), ("n", 6, "h")),
        ("BatchNormalization(x, w, w, w, w)", ("n", "c", "h"), (6,), ("n", 6, "h")),
        ("Conv<group=2>(x, w)", ("n", None, None), (4, 3, 1), ("n", 6, None)),
        ("MatMul(x, w)", ("n", None, None), (6, 4), ("n", None, 6)),
        ("Gemm<transA=1>(x, w)", (None, None), (6, 4), (6, None)),
        ("MatMul(x, w)", ("n", 5), (6, 4), ("n", 5)),
        ("Conv(x, w)", ("n",), (4, 6, 1), ("n",)),
        ("Add(x, w)", ("n", None), (6,), ("n", None)),
    ],
)
def test_a_weight_tells_a_length_of_what_it_is_applied_to(text, before, weight, after):
    """Of what has no known rank, too, where the operator takes one only."""
    (node,) = parser.parse_graph(f"g (float[N] x) => (float[M] y) {{ y = {text} }}").node
    assert told_by_weight(value(*before), node, weight).shape == after
    ranked = node.op_type in ("Conv", "Gemm")
    alone = told_by_weight(Value("x", None, "float32"), node, weight).shape
    assert [isinstance(size, int) for size in alone or ()].count(True) == ranked


@pytest.mark.parametrize(
    ("branches", "shape"),
    [
        ([value("n", 6), value("n", 6)], ("n", 6)),
        ([value("n", 6), value("n", 5)], ("n", None)),
        ([value("n", 6), constant(3, 6)], (None, 6)),
        ([value("n", 6), value("n", 6, 1)], None),
        ([value("n", 6), None], None),
    ],
)
def test_an_if_has_what_its_branches_agree_on(branches, shape):
    assert of_branches(UNKNOWN, branches).shape == shape


def test_a_number_of_both_branches_takes_the_place_of_a_symbol():
    told = Value("y", ("n", "unk__0", "unk__1"), "float32")
    branches = [value("n", 6, 4), value("n", 6, 5)]
    assert of_branches(told, branches).shape == ("n", 6, "unk__1")


def test_a_batch_norm_folds_behind_an_if(tmp_path):
    text = (
        "(float[2,3,6,6] x, bool flag) => (float[2,4,6,6] z) {"
        + BEHIND_AN_IF
        + """
        m = Mul(k, v) n = Sub(l, m) c = Conv<kernel_shape=[1,1]>(n, w) z = BN(c)
    }"""
    )
    tensors = {"u": (5, 3, 1, 1), "w": (4, 5, 1, 1), "k": (5, 1, 1), "l": (5, 1, 1), "all": np.ones(4, bool)}
    folded, result = fold_and_check(model(text, **tensors, **batch_norm(4)), tmp_path)
    assert result.plan.kept == ()
    assert kinds(folded) == ["Shape", "Compress", "Reshape", "If", "Conv"]


def test_a_batch_norm_folds_behind_operators_that_only_onnx_has_a_rule_for(tmp_path):
    """A Pad and a Slice of what comes of an If, whose lengths are constants that ONNX's inference can't tell there."""
    text = (
        "(float[2,3,6,6] x, bool flag) => (float[2,4,a,b] z) {"
        + BEHIND_AN_IF
        + """
        p = Pad<mode="reflect">(v, pads) q = Slice(p, starts, ends, axes)
        y = BN(q) c = Conv<kernel_shape=[1,1]>(y, w) z = Relu(c)
    }"""
    )
    tensors = {
        "u": (5, 3, 1, 1),
        "w": (4, 3, 1, 1),
        "all": np.ones(4, bool),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    tensors |= {"starts": np.array([1]), "ends": np.array([4]), "axes": np.array([1])}
    folded, result = fold_and_check(model(text, **tensors, **batch_norm(3)), tmp_path)
    assert result.plan.kept == ()
    assert kinds(folded) == ["Shape", "Compress", "Reshape", "If", "Pad", "Slice", "Conv", "Relu"]


def test_a_batch_norm_folds_behind_every_output_of_a_split(tmp_path):
    text = (
        "(float[2,3,6,6] x, bool flag) => (float[2,4,a,b] z) {"
        + BEHIND_AN_IF
        + """
        p, q = Split<axis=1>(v, parts) f = Relu(p) m = Add(f, q)
        y = BN(m) c = Conv<kernel_shape=[1,1]>(y, w) z = Relu(c)
    }"""
    )
    tensors = {"u": (6, 3, 1, 1), "w": (4, 3, 1, 1), "all": np.ones(4, bool), "parts": np.array([3, 3])}
    folded, result = fold_and_check(model(text, **tensors, **batch_norm(3)), tmp_path)
    assert result.plan.kept == ()
    assert kinds(folded) == ["Shape", "Compress", "Reshape", "If", "Split", "Relu", "Add", "Conv", "Relu"]


def test_what_a_conv_tells_of_an_if_is_told_to_its_other_readers(tmp_path):
    text = (
        "(float[2,3,6,6] x, bool flag) => (float[2,4,a,b] z, float[2,4,c,d] k) {"
        + BEHIND_AN_IF
        + """
        k = Conv<kernel_shape=[1,1]>(v, o)
        p = Gather<axis=-2>(v, rows) y = BN(p) c = Conv<kernel_shape=[1,1]>(y, w) z = Relu(c)
    }"""
    )
    tensors = {"u": (3, 3, 1, 1), "o": (4, 3, 1, 1), "w": (4, 3, 1, 1), "all": np.ones(4, bool)}
    folded, result = fold_and_check(model(text, **tensors, rows=np.array([0, 2, 1]), **batch_norm(3)), tmp_path)
    assert result.plan.kept == ()
    assert kinds(folded) == ["Shape", "Compress", "Reshape", "If", "Conv", "Gather", "Conv", "Relu"]


def test_a_batch_norm_tells_how_many_channels_it_works_on(tmp_path):
    """They were rows before, of a number that nothing else in the file tells."""
    text = """(float[2,3,4,6] x) => (float[2,5,3,6] z)
        { s = Shape(x) i = Compress(s, all) r = Reshape(x, i) c = Conv<kernel_shape=[1,1]>(r, u)
          t = Transpose<perm=[0,2,1,3]>(c) y = BN(t) z = Conv<kernel_shape=[1,1]>(y, w) }"""
    tensors = {"u": (3, 3, 1, 1), "w": (5, 4, 1, 1), "all": np.ones(4, bool)}
    folded, result = fold_and_check(model(text, **tensors, **batch_norm(4)), tmp_path)
    assert result.plan.kept == ()
    assert kinds(folded) == ["Shape", "Compress", "Reshape", "Conv", "Transpose", "Conv"]


def test_a_computed_weight_tells_what_another_reader_needs(tmp_path):
    """Of what comes of an image of any size, the Mul knows no length; the Gemm behind it does."""
    text = """(float[2,3,h,w] x) => (float[2,4] y, float[2,4] z)
        { f = Flatten(x) m = Mul(f, s) u = Transpose<perm=[1,0]>(v) y = Gemm(f, u) z = MatMul(m, k) }"""
    onnx.save(model(text, s=(12,), v=(4, 12), k=(12, 4)), tmp_path / "model.onnx")
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert [outcome.affine for outcome in result.plan.folded] == ["m"]
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype(np.float32)
    for want, got in zip(*(run(tmp_path / f"{name}.onnx", {"x": x}) for name in ("model", "folded")), strict=True):
        assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_the_file_tells_what_an_operator_of_another_domain_gives(tmp_path):
    """ONNX Runtime's own operators stand in files that it has optimised, with their shapes."""
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[N,3,8,8] x) => (float[N,4,h,w] y)
        { a = com.microsoft.QuickGelu(x) b = BatchNormalization(a, gamma, beta, mean, var) y = Conv(b, w) }"""
    proto = model(text, w=(4, 3, 3, 3), **batch_norm(3))
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 3, 8, 8]))
    proto.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 5, 8]))  # stale
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    assert [outcome.affine for outcome in fold_file(source, target).plan.folded] == ["b"]
    want, got = (run(path, feeds_of(proto))[0] for path in (source, target))
    assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
