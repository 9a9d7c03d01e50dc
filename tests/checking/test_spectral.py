"""Fourier transforms have a float64 truth, so that a runtime's own faults are not taken for it."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.checking import Verdict, check
from bnfold.checking.torch_executor import Executor
from bnfold.checking.torch_ops import to_tensor

X = np.random.default_rng(0).normal(size=(2, 8, 2))


def inverse(length, *, opset=20):
    """The real signal of `length` of eight bins."""
    tensors = [numpy_helper.from_array(np.array(number, np.int64), name) for name, number in (("n", length), ("a", 1))]
    inputs, axis = (["x", "n", "a"], {}) if opset >= 20 else (["x", "n"], {"axis": 1})
    node = helper.make_node("DFT", inputs, ["y"], inverse=1, onesided=1, **axis)
    values = [helper.make_tensor_value_info(*v) for v in (("x", TensorProto.FLOAT, [2, 8, 2]), ("y", 1, None))]
    graph = helper.make_graph([node], "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("length", [5, 8, 14, 20])
def test_the_truth_is_numpys(length, opset):
    found = Executor(inverse(length, opset=opset)).run({"x": to_tensor(X)})["y"]
    np.testing.assert_allclose(found.numpy()[..., 0], np.fft.irfft(X[..., 0] + 1j * X[..., 1], length, 1), atol=1e-12)


def test_what_the_runtime_gets_right_is_verified():
    assert check(inverse(14), inverse(14), localise=False).verdict is Verdict.VERIFIED


def test_what_the_runtime_gets_wrong_is_not():
    result = check(inverse(5), inverse(5), localise=False)
    assert result.verdict is Verdict.UNVERIFIED
    assert "computed wrongly by what runs it" in result.reasons[0]
