"""A fold of a module is audited weight by weight: a fault far too small for the outputs is found and named."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold import graph
from bnfold.adapters import torch_numbers, torch_program_graph
from bnfold.affine import Floats
from bnfold.models import create
from bnfold.training.statistics import randomise_


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False))
    return randomise_(layers.append(nn.BatchNorm2d(4)), 1, zero=True).eval().to(dtype)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_right_fold_passes(dtype: torch.dtype, inplace: bool) -> None:
    result = bnfold.fold(network(dtype), torch.randn(1, 3, 9, 9, dtype=dtype), inplace=inplace)
    assert len(result.plan.folded) == 2


@pytest.mark.parametrize("name", ["lenet_scratch", "preact_resnet", "mobilenet"])
def test_whole_networks_pass(name: str) -> None:
    model = randomise_(create(name), 2, negative=False).eval()
    assert bnfold.fold(model, torch.randn(1, 1, 28, 28)).plan.kept == ()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rank", [4, 1], ids=["weight", "bias"])
def test_two_ulp_in_one_number_are_found(monkeypatch: pytest.MonkeyPatch, rank: int, inplace: bool) -> None:
    right = torch_numbers._rounded_once

    def wrong(numbers: Floats, dtype: torch.dtype) -> Floats:
        new = right(numbers, dtype)
        if new.ndim == rank:
            new.reshape(-1)[1] *= 1 + 2**-21
        return new

    monkeypatch.setattr(torch_numbers, "_rounded_once", wrong)
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(bnfold.DifferentError, match=r"^0: the (weight|bias) that was written"):
        bnfold.fold(model, torch.randn(1, 3, 9, 9), inplace=inplace)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_programs_are_audited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    program = torch.export.export(network(), (torch.randn(2, 3, 9, 9),))
    assert len(bnfold.fold(program, verify=False).plan.folded) == 2
    right = torch_numbers.rounded

    def wrong(numbers: Floats, like: Tensor) -> Tensor:
        new = right(numbers, like)
        return new * (1 + 2**-21) if new.dim() == 1 else new

    monkeypatch.setattr(torch_program_graph, "rounded", wrong)
    with pytest.raises(bnfold.DifferentError, match="the bias that was written"):
        bnfold.fold(program, verify=False)


def test_a_stretch_of_a_weight_that_was_not_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "SLAB", 3 * 3 * 3 * 2)
    model = network()
    assert len(bnfold.fold(model, torch.randn(1, 3, 9, 9)).plan.folded) == 2
    right, seen = torch_numbers._rounded_once, list[int]()

    def wrong(numbers: Floats, dtype: torch.dtype) -> Floats:
        seen.append(len(numbers))
        return np.zeros_like(numbers) if seen == [2, 2] else right(numbers, dtype)

    monkeypatch.setattr(torch_numbers, "_rounded_once", wrong)
    with pytest.raises(bnfold.DifferentError, match=r"^0: the weight that was written"):
        bnfold.fold(model, torch.randn(1, 3, 9, 9))
    assert seen[:2] == [2, 2]
