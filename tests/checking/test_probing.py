"""What the usual inputs seldom show: weights behind activations that they leave shut, where whole numbers change."""

import numpy as np
import onnx
import pytest

from bnfold.checking import Verdict, check


def network(offset, factor=1.0):
    """Rows of a Gemm behind ReLUs, the first of them shut by `offset`, and with one weight times `factor`."""
    random = np.random.default_rng(0)
    weight, last = random.normal(size=(4, 5)).astype("f"), random.normal(size=(4, 3)).astype("f")
    weight[0, 2] *= factor
    bias = np.array([offset, 0.5, 0.5, 0.5], "f")
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N,5] x) => (float[N,3] y) {
            h = Gemm <transB = 1> (x, w, b)
            r = Relu(h)
            y = MatMul(r, v)
        }"""
    )
    tensors = {"w": weight, "b": bias, "v": last}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    return model


def test_a_wider_input_shows_it():
    result = check(network(-60.0), network(-60.0, 1 + 2.0**-8), localise=False)
    assert result.verdict is Verdict.DIFFERENT
    assert result.inputs[-1].name.startswith("wider/")
    assert result.runs[0].verdict is Verdict.DIFFERENT
    assert [(row.channel, row.what) for row in result.audit if not row.passed] == [(0, "weight")]
    assert not result.audit_gaps


def test_what_nothing_shows_is_told():
    result = check(network(-1e6), network(-1e6, 1 + 2.0**-8), localise=False)
    assert result.passed
    assert "no output shows them" in result.warnings[0]


def test_no_input_is_drawn_beside_given_ones():
    x = np.random.default_rng(1).normal(size=(4, 5)).astype("f")
    result = check(network(-60.0), network(-60.0, 1 + 2.0**-8), x, only_given=True, localise=False)
    assert [record.name for record in result.inputs] == ["sample/0"]
    assert "no output shows them" in result.warnings[0]


@pytest.mark.parametrize("offset", [-60.0, -1e6])
def test_equal_weights_need_no_wider_input(offset):
    result = check(network(offset), network(offset), localise=False)
    assert result.passed
    assert not any(record.name.startswith("wider/") for record in result.inputs)


def limit(threshold, kind="bool"):
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N,5] x) => ({kind}[N,5] y)
        <float k = {{{threshold}}}> {{
            b = Greater(x, k)
            y = Cast<to = {9 if kind == "bool" else 7}>(b)
        }}"""
    )


@pytest.mark.parametrize("kind", ["bool", "int64"])
def test_a_threshold_that_few_inputs_come_near_to(kind):
    assert check(limit(0.5, kind), limit(0.5, kind), localise=False).passed
    result = check(limit(0.5, kind), limit(0.502, kind), localise=False)
    assert result.verdict is Verdict.DIFFERENT
    assert result.inputs[-1].name.startswith("wider/")


def test_an_output_that_never_changes_is_told():
    def heads(offset):
        model = onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["": 17]> g (float[N,5] x) => (float[N,5] y, float[N,5] z) {
                y = Neg(x)
                h = Sub(x, c)
                z = Relu(h)
            }"""
        )
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(offset, "f"), "c"))
        return model

    result = check(heads(1e6), heads(2e6), localise=False)
    assert any("z is the same for every input" in warning for warning in result.warnings)
    assert not any("every input" in warning for warning in check(heads(0), heads(0), localise=False).warnings)


def test_infinities_on_both_sides_raise_no_warning():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N,5] x) => (float[N,4] y)
        <float z = {0.0}> {
            h = Gemm <transB = 1> (x, w)
            y = Div(h, z)
        }"""
    )
    other = onnx.ModelProto.FromString(model.SerializeToString())
    weight = np.random.default_rng(0).normal(size=(4, 5)).astype("f")
    for side, array in ((model, weight), (other, 2 * weight)):
        side.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    assert not check(model, other, localise=False).passed
