"""Every network of models/, exported in the ways in which BatchNorm survives an export, then folded as a file."""

import io
import warnings

import numpy as np
import onnx
import pytest
import torch

from bnfold.adapters.onnx_file import fold_file
from bnfold.models import ARCHITECTURES, create
from bnfold.training.statistics import randomise_
from tests.adapters.onnx_cases import run

# What stays by right: behind a concat that others read with other shifts, or negative behind a ReLU; the others go.
KEPT = {"densenet": 9, "preact_resnet": 4}
LEAST = 1e-5  # relative to the largest output


def network(name):
    torch.manual_seed(0)
    return randomise_(create(name).eval(), seed=0), torch.randn(2, *ARCHITECTURES[name].input_shape)


def legacy(name, path, opset, dynamic):
    module, x = network(name)
    data = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            data,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=opset,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}} if dynamic else None,
        )
    path.write_bytes(data.getvalue())
    return x.numpy()


def dynamo(name, path):
    module, x = network(name)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (x,),
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    onnx.save(program.model_proto, path)
    return x.numpy()


def assert_folded(name, folder, x):
    source, target = folder / "model.onnx", folder / "folded.onnx"
    result = fold_file(source, target)
    assert len(result.plan.kept) <= KEPT.get(name, 0)
    onnx.checker.check_model(str(target), full_check=True)
    feeds = {onnx.load(source).graph.input[0].name: x}
    got, wanted = run(target, feeds)[0], run(source, feeds)[0]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=LEAST * np.abs(wanted).max())
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(target).graph.node} or name in KEPT


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("opset", "dynamic"), [(11, False), (17, True)])
def test_the_legacy_exporter(name, opset, dynamic, tmp_path):
    assert_folded(name, tmp_path, legacy(name, tmp_path / "model.onnx", opset, dynamic))


# conv3d: this exporter gives a convolution without a bias one of the wrong shape, which no runtime takes.
@pytest.mark.parametrize(
    "name",
    [
        name if name == "convnet" else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
        if name != "conv3d"
    ],
)
def test_the_dynamo_exporter(name, tmp_path):
    assert_folded(name, tmp_path, dynamo(name, tmp_path / "model.onnx"))
