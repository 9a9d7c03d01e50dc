"""The networks: shapes, what each is there for, and BatchNorm by hand against PyTorch's."""

import inspect
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from bnfold.models import ARCHITECTURES, create
from bnfold.training.statistics import batch_norms, randomise_

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# How many BatchNorms there are, and a layer that the network is there to show.
HOLDS = {
    "lenet": (4, nn.AvgPool2d),
    "lenet_scratch": (4, nn.AvgPool2d),
    "convnet": (2, nn.MaxPool2d),
    "mlp": (2, nn.BatchNorm1d),
    "resnet": (15, nn.AdaptiveAvgPool2d),
    "preact_resnet": (13, nn.Conv2d),
    "densenet": (18, nn.ReLU),
    "mobilenet": (16, nn.ReLU6),
    "repvgg": (15, nn.ReLU),
    "autoencoder": (4, nn.ConvTranspose2d),
    "conv1d": (4, nn.BatchNorm1d),
    "conv3d": (3, nn.BatchNorm3d),
}


def test_every_network_is_listed_here():
    assert set(HOLDS) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(name, batch):
    architecture = ARCHITECTURES[name]
    module = create(name).eval()
    with torch.no_grad():
        y = module(torch.randn(batch, *architecture.input_shape))
    wanted = (10,) if architecture.task == "classify" else architecture.input_shape
    assert y.shape == (batch, *wanted)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_and_classes_are_arguments(name):
    architecture = ARCHITECTURES[name]
    sizes = {"in_channels": 3} | ({"num_classes": 7} if architecture.task == "classify" else {})
    module = create(name, **sizes).eval()
    with torch.no_grad():
        y = module(torch.randn(2, 3, *architecture.input_shape[1:]))
    assert y.shape[1] == (7 if architecture.task == "classify" else 3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parts(name):
    count, layer = HOLDS[name]
    module = create(name)
    assert sum(1 for _ in batch_norms(module)) == count
    assert any(isinstance(part, layer) for part in module.modules())
    assert sum(parameter.numel() for parameter in module.parameters()) < 200_000


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_arguments_are_json_and_the_defaults_of_the_constructor(name):
    architecture = ARCHITECTURES[name]
    parameters = inspect.signature(architecture.factory).parameters
    assert json.loads(json.dumps(dict(architecture.arguments))) == {
        key: parameter.default for key, parameter in parameters.items()
    }


def test_depthwise_and_grouped_convolutions():
    depthwise = [m for m in create("mobilenet").modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 5
    assert all(conv.groups == conv.in_channels for conv in depthwise)
    assert any(conv.groups > 1 for conv in create("conv1d").modules() if isinstance(conv, nn.Conv1d))
    assert any(conv.groups > 1 for conv in create("autoencoder").modules() if isinstance(conv, nn.ConvTranspose2d))


def test_repvgg_has_three_branches_where_the_shape_stays():
    blocks = [m for m in create("repvgg").modules() if hasattr(m, "rbr_dense")]
    assert [block.rbr_identity is not None for block in blocks] == [False, True] * 3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_eps_and_momentum_reach_every_batch_norm(name):
    module = create(name, bn_eps=0.02, bn_momentum=0.3)
    layers = [m for m in module.modules() if isinstance(m, NORMS) or hasattr(m, "moving_mean")]
    assert len(layers) == HOLDS[name][0]
    assert {(layer.eps, layer.momentum) for layer in layers} == {(0.02, 0.3)}


def test_unknown_names_and_arguments():
    with pytest.raises(KeyError):
        create("alexnet")
    with pytest.raises(TypeError):
        create("lenet", width=3)


def twins():
    """LeNet and LeNet by hand, with the same random weights and statistics."""
    module, scratch = randomise_(create("lenet"), seed=1), create("lenet_scratch")
    with torch.no_grad():
        by_hand = [m for m in scratch.net if list(m.parameters())]
        built_in = [m for m in [*module.features, *module.classifier] if list(m.parameters())]
        for one, other in zip(built_in, by_hand, strict=True):
            if isinstance(one, NORMS):
                pairs = [(one.weight, other.gamma), (one.bias, other.beta)]
                pairs += [(one.running_mean, other.moving_mean), (one.running_var, other.moving_var)]
            else:
                pairs = [(one.weight, other.weight), (one.bias, other.bias)]
            for source, target in pairs:
                target.copy_(source.view_as(target))
    return module.double(), scratch.double()


def test_batch_norm_by_hand_predicts_as_pytorchs():
    module, scratch = twins()
    x = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        assert_close(scratch(x), module.eval()(x))


def test_batch_norm_by_hand_trains_as_pytorchs():
    module, scratch = twins()
    x = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    assert_close(scratch(x), module.train()(x))
    means = zip(batch_norms(module), batch_norms(scratch), strict=True)
    for one, other in means:
        assert_close(other.mean.flatten(), one.mean)


def test_batch_norm_by_hand_asks_for_gradient_mode_alone():
    _, scratch = twins()
    x = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        before = scratch.net[1].moving_mean.clone()
        trained = scratch.train()(x)
        assert torch.equal(scratch.net[1].moving_mean, before)
        assert torch.equal(scratch.eval()(x), trained)
    scratch.eval()(x)
    assert not torch.equal(scratch.net[1].moving_mean, before)


def test_averages_by_hand_are_saved():
    names = create("lenet_scratch").state_dict()
    assert sum(name.endswith(("moving_mean", "moving_var")) for name in names) == 8


def test_names_are_known_without_torch():
    code = "import sys; from bnfold.models import ARCHITECTURES; assert len(ARCHITECTURES) == 12; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "bnfold.models" in modules
    assert not {"torch", "numpy", "bnfold.models.lenet"} & set(modules)
