"""Folding costs no accuracy: the folded network's error to the float64 truth beside the unfolded network's own.

The statistics are those of the data (as training leaves them), gamma and beta are random. Ratios of single inputs and
networks scatter around 1, since the two round differently; their median is what folding costs.
"""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import bnfold
import models
from bnfold.adapters.torch_module import fold_module
from bnfold.training.statistics import batch_norms, randomise_

ALLOWED = {torch.float32: 1.05, torch.float16: 1.3, torch.bfloat16: 1.3}  # in half, the rounded weights cost that
QUICK = ("lenet", "lenet_scratch", "convnet", "mlp")
INPUTS = 4  # for each network, of 4 samples each
SEEDS = {torch.float32: 40, torch.float16: 12, torch.bfloat16: 12}  # a median of 12 scatters by 0.03


def calibrated(name: str, seed: int) -> nn.Module:
    """A network whose running statistics are those of random inputs, with random gamma and beta."""
    torch.manual_seed(seed)
    network = randomise_(models.create(name), seed)
    shape = models.ARCHITECTURES[name].input_shape
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
            layer.reset_running_stats()
    network.train()
    for step in range(3):
        for layer in network.modules():
            if hasattr(layer, "moving_mean"):  # written by hand: its momentum is the new batch's share of the mean
                layer.momentum = 1 / (step + 1)
        network(torch.randn(16, *shape))
    assert all(torch.isfinite(tensors.mean).all() for tensors in batch_norms(network))
    return network.eval()


def error(output: Tensor, truth: Tensor) -> float:
    return float((output.double() - truth).pow(2).mean().sqrt())


def ratios(name: str, seeds: int, dtype: torch.dtype, *, wide_norms: bool = False) -> list[float]:
    """The folded network's error over the unfolded one's. wide_norms: BatchNorm in float32 on tensors in half."""
    found = []
    shape = models.ARCHITECTURES[name].input_shape
    for seed in range(seeds):
        network = calibrated(name, seed).to(dtype)
        for layer in network.modules():
            if wide_norms and isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.float()
        folded = fold_module(network, (torch.randn(2, *shape).to(dtype),)).model
        exact = copy.deepcopy(network).double()
        with torch.no_grad():
            for _ in range(INPUTS):
                x = torch.randn(4, *shape).to(dtype)
                truth = exact(x.double())
                found.append(error(folded(x), truth) / error(network(x), truth))
    return found


@pytest.mark.parametrize("name", QUICK)
def test_folding_costs_no_accuracy(name: str) -> None:
    assert np.median(ratios(name, 6, torch.float32)) <= ALLOWED[torch.float32] * 1.1  # few seeds: a wider median


@pytest.mark.parametrize(("name", "dtype"), [("lenet", torch.float16), ("lenet_scratch", torch.bfloat16)])
def test_folding_costs_no_accuracy_in_half(name: str, dtype: torch.dtype) -> None:
    """Behind a sigmoid means are large beside deviations: rounded to the nearest, these came to 1.4 and 1.7."""
    assert np.median(ratios(name, 5, dtype)) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_folding_costs_no_accuracy_anywhere(name: str, dtype: torch.dtype) -> None:
    assert np.median(ratios(name, SEEDS[dtype], dtype)) <= ALLOWED[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in models.ARCHITECTURES if name != "lenet_scratch"])
def test_folding_costs_no_accuracy_where_only_batch_norms_are_wide(name: str, dtype: torch.dtype) -> None:
    assert np.median(ratios(name, SEEDS[dtype], dtype, wide_norms=True)) <= ALLOWED[dtype]


def test_half_precision_with_a_tiny_eps_gives_what_float64_gives() -> None:
    """Elsewhere sqrt(var + 1e-8) is computed in float16, where 1e-8 is 0: NaN for a channel that never varies."""
    layer = nn.Conv2d(3, 4, 3)
    norm = nn.BatchNorm2d(4, eps=1e-8).eval()
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor([0.0, 1e-4, 1.0, 2.0]))
        norm.weight.copy_(torch.tensor([1e-4, -0.5, 2.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.5, -1.0, 2.0, 0.25]))
        layer.weight.mul_(0.01)
    network = nn.Sequential(layer, norm).eval().half()
    folded = fold_module(network, (torch.randn(2, 3, 6, 6).half(),)).model
    exact = copy.deepcopy(network).double()
    x = torch.randn(4, 3, 6, 6).half()
    with torch.no_grad():
        truth = exact(x.double())
        assert torch.isfinite(folded(x)).all()
        assert error(folded(x), truth) <= 2e-3 * float(truth.abs().max())


class HalfConv(nn.Module):
    """What mixed precision leaves: convolutions in half, BatchNorm in float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3).to(dtype), nn.BatchNorm2d(4)
        randomise_(self.norm, 0)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(x.to(self.conv.weight.dtype)).float())
        return result


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_conv_takes_up_a_float32_norm(dtype: torch.dtype) -> None:
    result = fold_module(HalfConv(dtype).eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert [outcome.affine for outcome in result.plan.folded] == ["norm"]


def test_both_adapters_round_alike_in_half(tmp_path: Path) -> None:
    network = calibrated("lenet", 0).half()
    x = torch.randn(2, 1, 28, 28).half()
    bnfold.export(network, (x,), tmp_path / "model.onnx", fold=False, verify=False)
    proto = bnfold.fold(onnx.load(tmp_path / "model.onnx")).model
    written = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    for name, tensor in fold_module(network, (x,)).model.named_parameters():
        np.testing.assert_array_equal(written[name], tensor.detach().numpy(), err_msg=name)


def test_merged_branches_cost_no_accuracy_in_half() -> None:
    """Rounded to the nearest these came to 1.2."""
    found, shape = [], models.ARCHITECTURES["repvgg"].input_shape
    for seed in range(2):
        network = calibrated("repvgg", seed).to(torch.bfloat16)
        x = torch.randn(4, *shape).to(torch.bfloat16)
        with torch.no_grad():
            result = bnfold.fold(torch.export.export(network, (x,)))
            truth = copy.deepcopy(network).double()(x.double())
            found.append(error(result.model.module()(x), truth) / error(network(x), truth))
    assert max(found) <= ALLOWED[torch.bfloat16]
