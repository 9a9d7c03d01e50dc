"""`bnfold fold` on a checkpoint."""

from pathlib import Path

import numpy as np
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


MISTAKES = [
    (["--input", "y=2x1x28x28"], "forward takes x"),
    (["--freeze-inputs"], "is a PyTorch model; --freeze-inputs can't be used with it"),
    (["--external-data", "always"], "is a PyTorch model; --external-data can't be used with it"),
    (["--to", "onnx", "-o", "model.pt2"], "--to onnx: the name model.pt2 says pt2"),
    (["--plan", "nowhere.json"], "nowhere.json: no such file"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=lambda item: " ".join(item))
def test_what_makes_no_sense_is_not_ignored(options: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(create("lenet").state_dict(), path)
    with pytest.raises(BnfoldError, match=message):
        output("fold", path, "--arch", "lenet", *([] if "--input" in options else ["--input", "2x1x28x28"]), *options)
    assert list(tmp_path.iterdir()) == [path]


def test_the_only_array_of_an_npz_has_any_name(tmp_path: Path) -> None:
    torch.save(create("lenet").state_dict(), tmp_path / "weights.pt")
    np.savez(tmp_path / "x.npz", np.ones((2, 1, 28, 28), np.float32))
    text = output("inspect", tmp_path / "weights.pt", "--arch", "lenet", "--input", tmp_path / "x.npz")
    assert "shape 2x1x28x28" in text
