"""`bnfold check` and `bnfold lint` on files of weights: what builds the network, and what it takes."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from bnfold.commands import group
from bnfold.errors import BnfoldError
from bnfold.models import create
from bnfold.training.statistics import randomise_


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(group, list(arguments), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.output


class Two(nn.Module):
    """Takes an image and its mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.layers(x - 2 * y[..., None])
        return z


ARCH = ("--arch", f"{__file__}:Two", "--arch-kwargs", "width=5")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(randomise_(Two(5), 0).eval().state_dict(), "model.pt")
    inputs = ("--input", "1x2x8x8", "--input", "1x2x1")
    assert CliRunner().invoke(group, ["fold", "model.pt", *ARCH, *inputs]).exit_code == 0


@pytest.mark.parametrize("shapes", [("1x2x8x8", "1x2x1"), ("x=1x2x8x8", "y=1x2x1"), ("y=1x2x1", "x=1x2x8x8")])
def test_the_command_line_says_what_files_of_weights_take(files: None, shapes: tuple[str, str]) -> None:
    inputs = [part for shape in shapes for part in ("--input", shape)]
    status, output = run("check", "model.pt", "model.folded.pt", *ARCH, *inputs, "--save", "")
    assert status == 0
    assert "verified: the same function" in output


def test_the_network_is_built_with_the_arguments(files: None) -> None:
    with pytest.raises(BnfoldError, match="doesn't fit"):
        run("check", "model.pt", "model.folded.pt", *ARCH[:3], "width=4", "--input", "1x2x8x8", "--input", "1x2x1")
    with pytest.raises(BnfoldError, match="name every input"):
        run("check", "model.pt", "model.folded.pt", *ARCH, "--input", "x=1x2x8x8", "--input", "1x2x1")


def test_lint_builds_it_too(files: None) -> None:
    inputs = ("--input", "1x2x8x8", "--input", "1x2x1")
    status, output = run("lint", "model.pt", *ARCH, *inputs)
    assert (status, "1 affine can be folded" in output) == (1, True)
    assert run("lint", "model.folded.pt", *ARCH, *inputs)[0] == 0


def test_weights_of_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(randomise_(create("lenet"), 0).eval().bfloat16().state_dict(), "model.pt")
    run("fold", "model.pt", "--arch", "lenet")
    status, output = run("check", "model.pt", "model.folded.pt", "--arch", "lenet", "--save", "")
    assert status == 0
    assert "[bfloat16]" in output
