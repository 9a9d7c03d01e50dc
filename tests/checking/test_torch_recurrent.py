"""Recurrent layers in the checker: float64 against ONNX Runtime, and faults that a fold into one could make."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import bnfold
from bnfold.adapters.onnx_file import fold_proto
from bnfold.checking.torch_executor import Executor, MissingOperatorError
from tests.adapters.onnx_cases import feeds_of, model, run
from tests.adapters.test_onnx_recurrent import BN, FOLDS, HEAD, call, weights

MORE = [
    pytest.param("LSTM", call("LSTM", "t, w, r, c", input_forget=1), 1, {}, id="LSTM, coupled gates"),
    pytest.param("GRU", call("GRU", "t, w, r, c", 2, linear_before_reset=1, clip=0.7), 2, {}, id="GRU, clipped"),
    pytest.param("RNN", call("RNN", "t, w, r, c", 2, activations='["Relu", "Tanh"]'), 2, {}, id="RNN, two activations"),
]


@pytest.mark.parametrize(("kind", "layer", "ways", "more"), [*FOLDS, *MORE])
def test_the_executor_computes_what_the_runtime_does(
    kind: str, layer: str, ways: int, more: dict, tmp_path: Path
) -> None:
    proto = model(HEAD + layer, **(weights(kind, ways) | BN | more))
    onnx.save(proto, tmp_path / "model.onnx")
    feeds = feeds_of(proto)
    got = Executor(proto).run({name: torch.from_numpy(array) for name, array in feeds.items()})
    np.testing.assert_allclose(got["y"].numpy(), run(tmp_path / "model.onnx", feeds)[0], rtol=1e-4, atol=1e-5)


def test_an_activation_that_it_lacks_is_named() -> None:
    proto = model(HEAD + call("RNN", "t, w, r, c", activations='["Softsign"]'), **(weights("RNN") | BN))
    with pytest.raises(MissingOperatorError, match="RNN with activation Softsign"):
        Executor(proto)


FAULTS = {
    "one gate's weight": (1, lambda w: w * np.where(np.arange(w.shape[1]) == 3, 1.01, 1)[:, None]),
    "two features swapped": (1, lambda w: w[..., [1, 0, *range(2, w.shape[-1])]]),
    "the shift left out": (3, np.zeros_like),
    "the bias of the recurrent weight": (3, lambda b: np.roll(b, b.shape[-1] // 2, -1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    proto = model(HEAD + call("GRU", "t, w, r, c", linear_before_reset=1), **(weights("GRU") | BN))
    folded = fold_proto(proto).model
    assert bnfold.check(proto, folded).verdict.value == "verified"
    operand, change = FAULTS[fault]
    name = next(node for node in folded.graph.node if node.op_type == "GRU").input[operand]
    (tensor,) = (item for item in folded.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).astype(np.float32), name))
    assert bnfold.check(proto, folded).verdict.value == "different"
