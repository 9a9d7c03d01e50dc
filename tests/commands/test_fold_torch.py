"""`bnfold fold` on a checkpoint."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bnfold.adapters.torch_load import load_module
from bnfold.commands import group
from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES, create
from bnfold.training.checkpoint import Checkpoint
from bnfold.training.statistics import randomise_


def output(*arguments: object) -> str:
    result = CliRunner().invoke(group, [str(argument) for argument in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    module = create("lenet")
    randomise_(module, 0)
    shape = ARCHITECTURES["lenet"].input_shape
    path = tmp_path / "lenet.pt"
    Checkpoint("lenet", dict(ARCHITECTURES["lenet"].arguments), module.state_dict(), shape, (0.0,), (1.0,)).save(path)
    text = output("fold", path, "--save-plan", tmp_path / "plan.json")
    assert "verified" in text
    folded = load_module(tmp_path / "lenet.folded.pt").module
    assert not any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in folded.modules())
    output("fold", path, "--plan", tmp_path / "plan.json", "-o", tmp_path / "again.pt")
    again = load_module(tmp_path / "again.pt").module.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in folded.state_dict().items())


def test_inputs_of_a_wrong_shape_are_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(create("lenet").state_dict(), path)
    with pytest.raises(BnfoldError, match=r"LeNet: .*1x3x9x9"):
        output("fold", path, "--arch", "lenet", "--input", "1x3x9x9")
    assert list(tmp_path.iterdir()) == [path]
