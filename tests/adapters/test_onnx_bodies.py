"""Bodies of Scan and Loop, bodies in bodies, and what they capture from any graph around them."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose

import bnfold
from tests.adapters.onnx_cases import LEVELS, batch_norm, feeds_of, model, run

SCAN = """(float[3,2,4] x, float[2,4] h) => (float[2,4] last, float[3,2,4] y) {
    o = Gemm(h, u)
    last, y = Scan<num_scan_inputs=1, body = b (float[2,4] s, float[2,4] e) => (float[2,4] t, float[2,4] r) {
        m = MatMul(e, w) n = BN(m) a = Add(n, s) c = BN(o, 2) d = Sub(a, c) t = Tanh(d) r = Gemm(t, w) }>(h, x)
}"""
NESTED = """(float[2,4] x, bool f, int64 k) => (float[2,4] y) {
    o = Gemm(x, w)
    y = Loop<body = b (int64 i, bool c, float[2,4] s) => (bool d, float[2,4] t) {
        d = Identity(c) m = Gemm(s, u)
        t = If(f)<then_branch = p () => (float[2,4] q) { n = BN(m) e = BN(o, 2) q = Add(n, e) },
                  else_branch = z () => (float[2,4] v) { r = BN(m) v = Tanh(r) }> }>(k, yes, x)
}"""


def constants(**tensors):
    return tensors | batch_norm(4) | batch_norm(4, "2")


def checked(proto, folder, *feeds):
    """Fold a file; the same outputs at every level of the runtime, and nothing is left to fold."""
    source, target = folder / "model.onnx", folder / "folded.onnx"
    onnx.save(proto, source)
    result = bnfold.fold(source, output=target)
    onnx.checker.check_model(str(target), full_check=True)
    onnx.shape_inference.infer_shapes(onnx.load(target), check_type=True, strict_mode=True)
    for given in feeds:
        wanted = run(source, given)
        for level in LEVELS:
            for got, want in zip(run(target, given, level), wanted, strict=True):
                assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert not bnfold.fold(target, output=folder / "again.onnx").plan.folded
    return onnx.load(target), result


def every_kind(graph):
    """The operators of a graph and of its bodies."""
    for node in graph.node:
        yield node.op_type
        for item in node.attribute:
            if item.HasField("g"):
                yield from every_kind(item.g)


def test_the_body_of_a_scan_is_folded_inside_and_what_it_captures_too(tmp_path):
    proto = model(SCAN, **constants(w=(4, 4), u=(4, 4)))
    folded, result = checked(proto, tmp_path, feeds_of(proto))
    assert result.plan.kept == ()
    assert list(every_kind(folded.graph)) == ["Gemm", "Scan", "Gemm", "Add", "Sub", "Tanh", "Gemm"]


@pytest.mark.parametrize("axes", ["", "scan_input_axes=[1], scan_output_axes=[1], "])
def test_what_a_scan_is_given_and_gives_stays_as_it_is(axes, tmp_path):
    """An affine in front of it, or behind it, has another axis for its channels inside."""
    text = f"""(float[4,4,4] x, float[4,4] h) => (float[4,4] last, float[4,4,4] z) {{
        g = Relu(x) n = BN(g)
        last, y = Scan<num_scan_inputs=1, {axes}body = b (float[4,4] s, float[4,4] e) => (float[4,4] t, float[4,4] r)
            {{ m = Gemm(e, w) t = Add(m, s) r = Gemm(t, u) }}>(h, n)
        z = BN(y, 2) }}"""
    proto = model(text, **constants(w=(4, 4), u=(4, 4)))
    _, result = checked(proto, tmp_path, feeds_of(proto))
    assert [outcome.affine for outcome in result.plan.kept] == ["n", "z"]


def test_a_branch_in_a_loop_captures_from_both_graphs_around_it(tmp_path):
    proto = model(NESTED, **constants(w=(4, 4), u=(4, 4), yes=np.array(True)))
    feeds = [feeds_of(proto) | {"f": np.array(flag), "k": np.array(3)} for flag in (True, False)]
    folded, result = checked(proto, tmp_path, *feeds)
    assert {outcome.affine for outcome in result.plan.folded} == {
        "y.body/t.then_branch/n",
        "y.body/t.then_branch/e",
        "y.body/t.else_branch/r",
    }
    assert "BatchNormalization" not in every_kind(folded.graph)


def test_a_value_that_a_body_gives_as_it_got_it_is_held(tmp_path):
    text = """(float[2,4] x, bool f) => (float[2,4] y) { o = Gemm(x, w) n = BN(o)
        y = If(f)<then_branch = p () => (float[2,4] q) { q = Identity(o) },
                  else_branch = e () => (float[2,4] v) { v = Tanh(n) }> }"""
    proto = model(text, **{name: array for name, array in constants(w=(4, 4)).items() if "2" not in name})
    feeds = [feeds_of(proto) | {"f": np.array(flag)} for flag in (True, False)]
    _, result = checked(proto, tmp_path, *feeds)
    assert [outcome.affine for outcome in result.plan.kept] == ["n"]
