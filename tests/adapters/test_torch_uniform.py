"""A BatchNorm of one channel beside a Linear over another axis, through every way of writing it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters.torch_program import fold_program
from bnfold.why import Why
from tests.adapters.torch_networks import image, randomised

torch.set_num_threads(1)


class Signal(nn.Module):
    """One signal of six samples, (N, 1, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn1 = nn.Linear(6, 5), nn.BatchNorm1d(1)
        self.bn2, self.second = nn.BatchNorm1d(1), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.bn2(torch.relu(self.bn1(self.first(x)))))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomised(Signal())


X = image((3, 1, 6))


def test_a_module(network: nn.Module) -> None:
    result = bnfold.fold(network, X)
    assert [outcome.affine for outcome in result.plan.folded] == ["bn1", "bn2"]
    with torch.no_grad():
        torch.testing.assert_close(result.model(X), network(X), rtol=1e-5, atol=1e-6)


def test_a_program(network: nn.Module) -> None:
    with torch.no_grad():
        program = torch.export.export(network, (X,))
    result = fold_program(program)
    assert len(result.plan.folded) == 2
    with torch.no_grad():
        torch.testing.assert_close(result.model.module()(X), network(X), rtol=1e-5, atol=1e-6)


def test_a_file(network: nn.Module, tmp_path: Path) -> None:
    bnfold.export(network, (X,), tmp_path / "model.onnx", fold=False, verify=False)
    result = bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx")
    assert len(result.plan.folded) == 2
    assert bnfold.check(tmp_path / "model.onnx", tmp_path / "folded.onnx").verdict.value == "verified"


def test_one_that_is_left_out_keeps_its_number(network: nn.Module) -> None:
    before = {name: item.clone() for name, item in network.bn2.state_dict().items()}
    result = bnfold.fold(network, X, skip=["bn2"])
    (kept,) = result.plan.kept
    assert {reason.why for reason in kept.why} == {Why.SKIPPED}
    assert all(torch.equal(item, before[name]) for name, item in result.model.bn2.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(result.model(X), network(X), rtol=1e-5, atol=1e-6)
