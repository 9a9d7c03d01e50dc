"""Random statistics are what the tests of folding need: no two channels alike, signs and zeros as asked."""

import pytest
import torch
from torch import nn

from bnfold.models import ARCHITECTURES, create
from bnfold.training.statistics import batch_norms, non_finite, randomise_


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_two_channels_alike(name):
    for layer in batch_norms(randomise_(create(name), seed=1)):
        for tensor in layer.present():
            assert tensor.unique().numel() == tensor.numel()
        assert 0 < (layer.gamma < 0).sum() < layer.gamma.numel()
        assert not (layer.gamma == 0).any()
        assert (layer.var > 0).all()


def test_zeros_and_signs_as_asked():
    (layer,) = batch_norms(randomise_(nn.Sequential(nn.BatchNorm2d(8)), seed=1, zero=True))
    assert (layer.gamma == 0).sum() == 2
    assert (layer.gamma < 0).sum() == 2
    (layer,) = batch_norms(randomise_(nn.Sequential(nn.BatchNorm2d(8)), seed=1, negative=False))
    assert (layer.gamma > 0).all()


def test_the_seed_decides():
    one, same, other = (randomise_(nn.BatchNorm1d(4), seed).weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_layers_without_some_tensors(options):
    module = randomise_(nn.BatchNorm1d(4, **options), seed=1)
    (layer,) = batch_norms(module)
    assert len(layer.present()) == 2
    assert not non_finite(module)


@pytest.mark.parametrize(("tensor", "value"), [("running_var", -1.0), ("running_mean", torch.nan), ("bias", torch.inf)])
def test_statistics_that_are_not_finite_are_named(tensor, value):
    module = randomise_(create("convnet"), seed=1)
    assert non_finite(module) == []
    getattr(module.layer2[1], tensor).data[3] = value
    assert non_finite(module) == ["layer2.1"]
