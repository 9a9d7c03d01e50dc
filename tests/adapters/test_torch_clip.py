"""Level max in a module: a ReLU that is a module of its own becomes a clip by channel."""

from pathlib import Path

import pytest
import torch
from torch import nn

import bnfold
import models
from bnfold.adapters.torch_clip import ChannelClip
from bnfold.training.checkpoint import Checkpoint
from bnfold.training.statistics import randomise_
from bnfold.why import Why


class Dense(nn.Module):
    """Two BatchNorms with ReLUs read the same tensor, which is what keeps DenseNet's at the default level."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(6), nn.ReLU(inplace), nn.Conv2d(6, 4, 1)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(6), nn.ReLU(inplace), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.conv1(self.relu1(self.bn1(x))) + self.conv2(self.relu2(self.bn2(x)))


def dense(inplace: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return randomise_(Dense(inplace), 0).eval()


@pytest.mark.parametrize("inplace", [False, True])
def test_a_relu_gives_way(inplace: bool) -> None:
    network, x = dense(inplace), torch.randn(2, 3, 8, 8)
    assert bnfold.fold(network, (x,)).plan.kept
    result = bnfold.fold(network, (x,), level="max")
    assert result.plan.kept == ()
    clips = [part for part in result.model.modules() if isinstance(part, ChannelClip)]
    assert clips
    assert all(part.lo.shape == (6, 1, 1) for part in clips)
    torch.testing.assert_close(result.model(x), network(x), rtol=1e-5, atol=1e-5)
    again = bnfold.fold(result.model, (x,), level="max")
    assert again.plan.edits == ()


def test_a_relu_that_somebody_watches_or_shares_stays() -> None:
    network = dense()
    network.relu2 = network.relu1
    plan = bnfold.fold(network, (torch.randn(2, 3, 8, 8),), level="max").plan
    assert {Why.ORDER, Why.KINK} & {reason.why for kept in plan.kept for reason in kept.why}
    network = dense()
    for part in (network.relu1, network.relu2):
        part.register_forward_hook(lambda *_: None)
    plan = bnfold.fold(network, (torch.randn(2, 3, 8, 8),), level="max").plan
    assert [Why.HOOKED in {reason.why for reason in kept.why} for kept in plan.kept] == [True]


def test_densenet_is_free_of_batch_norm_and_loads_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomise_(models.create("densenet"), 0).eval()
    shape = models.ARCHITECTURES["densenet"].input_shape
    Checkpoint("densenet", {}, network.state_dict(), shape, (0.0,), (1.0,)).save(tmp_path / "model.pt")
    result = bnfold.fold(tmp_path / "model.pt", output=tmp_path / "folded.pt", level="max")
    assert result.plan.kept == ()
    loaded = bnfold.load(tmp_path / "folded.pt")
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in loaded.modules())
    x = torch.randn(2, *shape)
    torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=1e-5)
