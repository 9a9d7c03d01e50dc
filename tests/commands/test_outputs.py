"""What a command writes is never a file that it reads, nor two things at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bnfold.commands import group
from bnfold.errors import BnfoldError
from tests.adapters.onnx_cases import batch_norm, model, numbers

TEXT = "(float[N,3,4,4] x) => (float[N,5,4,4] y) { c = Conv(x, w) y = BN(c) }"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    proto = model(TEXT, w=numbers("w", (5, 3, 1, 1)), **batch_norm(5))
    onnx.save(proto, tmp_path / "a.onnx")
    onnx.save(proto, tmp_path / "b.onnx")
    onnx.save(proto, tmp_path / "outside.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    np.savez(tmp_path / "x.npz", x=numbers("x", (2, 3, 4, 4)))
    (tmp_path / "link").symlink_to("a.onnx")
    monkeypatch.chdir(tmp_path)
    invoke("fold", "a.onnx", "--save-plan", "plan.json", "--dry-run")
    return tmp_path


def invoke(*arguments: str) -> None:
    """Run a command that must end well. Raises what the command raises."""
    CliRunner().invoke(group, arguments, standalone_mode=False, catch_exceptions=False)


OVERWRITING = [
    ("fold", "a.onnx", "-o", "a.onnx"),
    ("fold", "a.onnx", "-o", "link"),
    ("fold", "a.onnx", "--save-plan", "a.onnx"),
    ("fold", "a.onnx", "--save-plan", "link", "--dry-run"),
    ("fold", "a.onnx", "-o", "new", "--save-plan", "./new"),
    ("fold", "a.onnx", "--plan", "plan.json", "-o", "plan.json"),
    ("fold", "a.onnx", "--plan", "plan.json", "--save-plan", "plan.json"),
    ("fold", "outside.onnx", "-o", "weights"),
    ("inspect", "a.onnx", "--svg", "a.onnx"),
    ("check", "a.onnx", "b.onnx", "--report", "html=a.onnx"),
    ("check", "a.onnx", "b.onnx", "--report", "html=new,json=./b.onnx"),
    ("check", "a.onnx", "b.onnx", "--inputs", "x.npz", "--save", "x.npz"),
    ("check", "a.onnx", "b.onnx", "--report", "html=new", "--save", "new"),
    ("check", "a.onnx", "b.onnx", "--plan", "plan.json", "--report", "json=plan.json"),
]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("arguments", OVERWRITING, ids=" ".join)
def test_nothing_is_written_over(folder: Path, arguments: Sequence[str]) -> None:
    before = contents(folder)
    with pytest.raises(BnfoldError, match="give another name"):
        invoke(*arguments)
    assert contents(folder) == before


def test_a_plan_is_not_written_over_the_model_of_the_default_name(folder: Path) -> None:
    with pytest.raises(BnfoldError, match="give another name"):
        invoke("fold", "a.onnx", "--save-plan", "a.folded.onnx")
    onnx.checker.check_model(onnx.load(folder / "a.folded.onnx"))


def test_two_things_may_go_to_one_device(folder: Path) -> None:
    invoke("fold", "a.onnx", "-o", "/dev/null", "--save-plan", "/dev/null")
    assert Path("/dev/null").is_char_device()
