"""An exported RepVGG has one convolution a block, also where a gamma is negative and the module keeps its BatchNorm."""

from pathlib import Path

import onnx
import onnx.parser
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import bnfold
from bnfold.adapters.torch_onnx_write import write
from bnfold.commands import group
from bnfold.errors import BnfoldError
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


class Branches(nn.Module):
    """x + conv(x) + another(x), both of the same dilation, by padding "same"."""

    def __init__(self, kernel: int, dilation: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 3, kernel, padding="same", dilation=dilation) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.one(x) + self.two(x) + x)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (5, 1)])
def test_branches_that_are_padded_to_the_same_size(kernel: int, dilation: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Branches(kernel, dilation).eval()
    result = bnfold.export(model, torch.randn(2, 3, 9, 9), tmp_path / "m.onnx")
    assert [node.op_type for node in onnx.load(result.path).graph.node].count("Conv") == 1
    assert result.check is not None
    assert result.check.passed


def test_what_a_merge_takes_in_is_folded_in_the_report(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = randomise_(create("repvgg", width=4), 0).eval()
    x = torch.randn(2, 1, 28, 28)
    alone = bnfold.export(model, x, tmp_path / "alone.onnx", merge=False, verify=False)
    merged = bnfold.export(model, x, tmp_path / "merged.onnx", verify=False)
    assert alone.fold is not None
    assert merged.fold is not None
    assert len(alone.fold.plan.kept) > len(merged.fold.plan.kept) == 0
    left = onnx.load(alone.path).graph.node
    assert sum(node.op_type == "BatchNormalization" for node in left) == len(alone.fold.plan.kept)


@pytest.mark.parametrize("merge", [True, False])
def test_a_checkpoint_that_is_folded_into_an_onnx_file_may_keep_its_branches(merge: bool, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    source = tmp_path / "repvgg.pt2"
    model = randomise_(create("repvgg", width=4), 0).eval()
    torch.export.save(torch.export.export(model, (torch.randn(2, 1, 28, 28),), strict=False), source)
    flags = ["--merge" if merge else "--no-merge"]
    done = CliRunner().invoke(group, ["fold", str(source), "-o", str(tmp_path / "folded.onnx"), *flags])
    assert done.exit_code == 0, done.output
    kinds = [node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node]
    assert ("Add" in kinds) is not merge


def test_weights_that_go_beside_the_file_take_a_name_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 0)
    target = tmp_path / "lenet.onnx"
    (tmp_path / "lenet.onnx.data").write_bytes(b"of another model")
    model = randomise_(create("lenet"), 0).eval()
    bnfold.export(model, torch.randn(2, 1, 28, 28), target)
    assert (tmp_path / "lenet.onnx.data").read_bytes() == b"of another model"
    assert (tmp_path / "lenet.onnx.2.data").stat().st_size > 10_000


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["beside the file", "in the file"])
def test_an_invalid_model_is_one_line(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", limit)
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[5,7] y) { y = Relu(x) }'
    with pytest.raises(BnfoldError, match="a model that is not valid") as caught:
        write(onnx.parser.parse_model(text), tmp_path / "m.onnx", None)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
