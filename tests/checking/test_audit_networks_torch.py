"""The audit on real networks: what bnfold writes of them is right, and one weight off by 2^-12 is named."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bnfold import models
from bnfold.adapters.onnx_file import fold_file
from bnfold.checking import check
from bnfold.training.statistics import randomise_

NAMES = ("convnet", "resnet", "preact_resnet", "densenet", "mobilenet", "repvgg", "autoencoder", "conv1d")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, and its file with every BatchNormalization still there."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(name):
        if name not in made:
            torch.manual_seed(0)
            network = calibrated(name)
            x = torch.randn(2, *models.ARCHITECTURES[name].input_shape)
            path = folder / f"{name}.onnx"
            torch.onnx.export(
                network, (x,), path, input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}},
                dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
            )  # fmt: skip
            made[name] = network, x.numpy(), path
        return made[name]

    return export


def calibrated(name):
    network = randomise_(models.create(name), 0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
            layer.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(torch.randn(16, *models.ARCHITECTURES[name].input_shape))
    return network.eval()


def tampered(path, generator):
    """Change one weight of every second linear layer by 2^-12; gives the model and the channels, in order."""
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in tensors]
    channels = []
    for node in layers[::2]:
        weight = numpy_helper.to_array(tensors[node.input[1]]).copy()
        channel = int(generator.integers(len(weight)))
        row = weight[channel]
        place = np.unravel_index(np.abs(row).argmax(), row.shape)
        row[place] *= 1 + 2.0**-12
        tensors[node.input[1]].CopyFrom(numpy_helper.from_array(weight, node.input[1]))
        channels.append(channel)
    return model, channels


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_of_a_right_fold_is_compared(exported, tmp_path, name, level):
    network, x, path = exported(name)
    fold_file(path, tmp_path / "folded.onnx", level=level)
    for reference, inputs in ((network, x), (path, None)):
        result = check(reference, tmp_path / "folded.onnx", inputs=inputs, localise=False)
        assert result.passed, result.reasons
        assert not result.audit_gaps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["resnet", "preact_resnet", "repvgg"])
def test_a_weight_is_named_in_every_second_layer(exported, tmp_path, name):
    network, x, path = exported(name)
    fold_file(path, tmp_path / "folded.onnx")
    model, channels = tampered(tmp_path / "folded.onnx", np.random.default_rng(1))
    result = check(network, model, inputs=x, localise=False)
    assert sorted(row.channel for row in result.audit if not row.passed) == sorted(channels)
    assert not result.audit_gaps
