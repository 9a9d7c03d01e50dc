"""A tensor that changes along one axis, another, and the first again, through either adapter."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters.onnx_file import fold_file
from bnfold.plan import Plan
from tests.adapters.onnx_cases import kinds, run


class Scale(nn.Module):
    """A layer scale along one axis of (N, 3, 4)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def in_turn() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv1d(3, 3, 1, bias=False), nn.Linear(4, 4, bias=False), Scale(3, 1), Scale(4), Scale(3, 1)
    return nn.Sequential(*layers).eval()


def axes(plan: Plan) -> list[list[int]]:
    return sorted([frame.axis for frame in chain] for chain in plan.frames.values())


def test_once_is_enough_for_a_module() -> None:
    network, x = in_turn(), torch.randn(2, 3, 4)
    result = bnfold.fold(network, (x,))
    assert axes(result.plan) == [[1], [1], [1, 2, 1], [2, 1]]
    assert not result.plan.kept
    torch.testing.assert_close(result.model(x), network(x))
    assert not bnfold.fold(result.model, (x,)).plan.edits


def test_once_is_enough_for_a_file(tmp_path: Path) -> None:
    network, x = in_turn(), torch.randn(2, 3, 4)
    bnfold.export(network, (x,), tmp_path / "model.onnx", fold=False, verify=False)
    result = fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert axes(result.plan) == [[1], [1], [1, 2, 1], [2, 1]]
    assert not result.plan.kept
    proto = onnx.load(tmp_path / "folded.onnx")
    assert "Mul" not in kinds(proto)
    (name,) = (item.name for item in proto.graph.input)
    np.testing.assert_allclose(
        run(tmp_path / "folded.onnx", {name: x.numpy()})[0], network(x).detach().numpy(), rtol=1e-5, atol=1e-6
    )
    assert not fold_file(tmp_path / "folded.onnx", tmp_path / "again.onnx").plan.edits
