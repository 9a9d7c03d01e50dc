"""The same network through PyTorch and through an ONNX file gives the same outcomes, before what each can't write."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bnfold
import models
from bnfold.adapters import onnx_file, torch_module
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Folded, Plan
from bnfold.raising import raised
from bnfold.training.statistics import randomise_
from bnfold.why import Why

FREE = {"lenet", "lenet_scratch", "convnet", "mlp", "resnet", "mobilenet", "autoencoder", "conv1d", "conv3d"}

AT_LEVEL = {("densenet", "max"), ("preact_resnet", "max")}


def outcomes(plan: Plan) -> list[frozenset[Why]]:
    """Give, for every affine in the graph's order, the reasons that keep it; none where it is folded."""
    return [
        frozenset() if isinstance(outcome, Folded) else frozenset(reason.why for reason in outcome.why)
        for outcome in plan.outcomes
    ]


def read_both(name: str, folder: Path, *, negative: bool) -> tuple[Graph, Graph]:
    torch.manual_seed(0)
    network = randomise_(models.create(name), 0, negative=negative).eval()
    return read_module(network, torch.randn(2, *models.ARCHITECTURES[name].input_shape), folder)


def read_module(network: nn.Module, example: Tensor, folder: Path) -> tuple[Graph, Graph]:
    bnfold.export(network, (example,), folder / "model.onnx", fold=False, verify=False)
    through_torch = torch_module.read(network, (example,), strict_limits=False)
    return raised(through_torch), raised(onnx_file.read(folder / "model.onnx"))


@pytest.mark.parametrize(
    ("name", "negative"),
    [*((name, True) for name in models.ARCHITECTURES), ("preact_resnet", False), ("repvgg", False)],
)
def test_both_find_the_same(name: str, negative: bool, tmp_path: Path) -> None:
    through_torch, through_onnx = read_both(name, tmp_path, negative=negative)
    for level in ("default", "max"):
        found = outcomes(fold(through_torch, level=level))
        assert found == outcomes(fold(through_onnx, level=level))
        assert found
        if name in FREE or (name, level) in AT_LEVEL or (name == "preact_resnet" and not negative):
            assert not any(found), "every BatchNorm of this network can be folded"


class Steps(nn.Module):
    """BatchNorm, a recurrent layer, and BatchNorm and a Linear behind it."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.bn, self.layer = nn.BatchNorm1d(5), kind(5, 4, batch_first=True, **options)
        width = 8 if self.layer.bidirectional else 4
        self.behind, self.head = nn.BatchNorm1d(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.bn(x).transpose(1, 2))[0]
        return self.head(self.behind(y.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_both_fold_the_same_around_recurrent_layers(kind: type[nn.RNNBase], options: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomise_(Steps(kind, **options), 0, negative=True).eval()
    plans = [fold(graph) for graph in read_module(network, torch.randn(3, 5, 6), tmp_path)]
    assert [outcomes(plan) for plan in plans] == [[frozenset(), frozenset()]] * 2
