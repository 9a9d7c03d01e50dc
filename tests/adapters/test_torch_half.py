"""Export to float16: one conversion of what was folded in float64, held to the original in float16."""

from pathlib import Path

import onnx
import pytest
import torch

import bnfold
import models
from bnfold.errors import BnfoldError
from bnfold.training.statistics import randomise_


def test_the_file_is_float16_throughout_and_verified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomise_(models.create("lenet"), 0).eval()
    result = bnfold.export(network, torch.randn(2, 1, 28, 28), tmp_path / "model.onnx", half=True)
    assert result.check is not None
    assert result.check.passed
    proto = onnx.load(tmp_path / "model.onnx")
    floats = {item.data_type for item in proto.graph.initializer} - {onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT16}
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)
    assert next(network.parameters()).dtype == torch.float32


def test_a_weight_that_float16_can_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[0].weight.mul_(1e6)
    with pytest.raises(BnfoldError, match="overflows float16"):
        bnfold.export(network, torch.randn(2, 3), tmp_path / "model.onnx", half=True)
    assert not list(tmp_path.iterdir())
