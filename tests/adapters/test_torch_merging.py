"""An exported RepVGG has one convolution a block, also where a gamma is negative and the module keeps its BatchNorm."""

from pathlib import Path

import onnx
import torch

import bnfold
from bnfold.models import create
from bnfold.training.statistics import randomise_


def test_an_exported_repvgg_has_no_branches(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = randomise_(create("repvgg", width=4), 0).eval()
    result = bnfold.export(model, torch.randn(2, 1, 28, 28), tmp_path / "repvgg.onnx")
    kinds = [node.op_type for node in onnx.load(result.path).graph.node]
    blocks = sum(type(layer).__name__ == "RepVGGBlock" for layer in model.modules())
    assert kinds.count("Conv") == blocks > 0
    assert "BatchNormalization" not in kinds
    assert "Add" not in kinds
    assert result.check is not None
    assert result.check.passed
