"""Recurrent layers in the checker: float64 against ONNX Runtime, and faults that a fold into one could make."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import bnfold
from bnfold.adapters.onnx_file import fold_proto
from bnfold.checking.torch_executor import Executor, MissingOperatorError
from bnfold.checking.torch_stands import Reference, Stands
from bnfold.training.statistics import randomise_
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


class Reader(torch.nn.Module):
    """What `READ` says, with a recurrent layer that is a single function here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.rnn = torch.nn.Conv1d(5, 5, 1), torch.nn.BatchNorm1d(5), torch.nn.LSTM(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, 5, T); gives (T, N, 4)."""
        steps: torch.Tensor = self.rnn(self.bn(self.conv(x)).permute(2, 0, 1))[0]
        return steps


READ = """(float[N,5,9] x) => (float[t,n,h] y) { v = Conv(x, k, b) t = Transpose<perm=[2,0,1]>(v)
    s = LSTM<hidden_size=4>(t, w, r, c) y = Squeeze(s, one) }"""

GATES = np.arange(16).reshape(4, 4)[[0, 3, 1, 2]].ravel()  # PyTorch's i, f, g, o in ONNX's order


def test_an_audit_takes_on_no_more_frames_with_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads the one before through several values, so the paths that frames come along multiply."""
    taken: list[int] = []
    inherited = Reference.inherited

    def counted(self: Reference, array: np.ndarray, stands: Sequence[Stands]) -> list[Stands]:
        taken.append(len(stands))
        return inherited(self, array, stands)

    monkeypatch.setattr(Reference, "inherited", counted)
    module = randomise_(Reader(), 1).eval()
    folded = bnfold.fold(module, torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))).model
    w, r, *biases = (tensor.numpy()[None, GATES] for tensor in folded.rnn.state_dict().values())
    k, b = (tensor.numpy() for tensor in folded.conv.state_dict().values())
    proto = model(READ, k=k, b=b, w=w, r=r, c=np.concatenate(biases, 1), one=np.array([1]))
    assert bnfold.check(module, proto, by_position=True).verdict.value == "verified"
    assert taken
    assert max(taken) <= 4
