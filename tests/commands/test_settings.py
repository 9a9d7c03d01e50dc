"""What [tool.bnfold] sets, the commands take; the command line has the last word."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from bnfold.commands import group
from tests.checking.building import networks

NETWORK = next(iter(networks()))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(NETWORK.model(), tmp_path / "plain.onnx")
    onnx.save(NETWORK.model(fold=True), tmp_path / "folded.onnx")
    return tmp_path


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(group, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert result.return_value == status, result.output
    return result.output


def kept(*arguments: str) -> list[str]:
    data = json.loads(run(*arguments, "--json"))
    return [row["affine"] for row in data["outcomes"] if row["outcome"] == "kept"]


def test_fold_and_inspect_leave_what_the_project_skips(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.bnfold]\nskip = ["c2/*"]\n')
    assert kept("fold", "plain.onnx", "--dry-run") == ["c2/BatchNormalization"]
    assert kept("inspect", "plain.onnx") == ["c2/BatchNormalization"]
    assert kept("fold", "plain.onnx", "--dry-run", "--skip", "c1/*") == ["c1/BatchNormalization"]


def test_a_plan_is_carried_out_whatever_the_project_skips(project: Path) -> None:
    run("fold", "plain.onnx", "--save-plan", "plan.json")
    (project / "pyproject.toml").write_text('[tool.bnfold]\nskip = ["c2/*"]\nlevel = "max"\n')
    assert kept("fold", "plain.onnx", "--dry-run", "--plan", "plan.json") == []


def test_check_takes_providers_seed_and_reports(project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[tool.bnfold]\nproviders = "cpu:level=basic"\nseed = 7\nreport = "junit=a.xml"\n'
    )
    data = json.loads(run("check", "plain.onnx", "folded.onnx", "--json"))
    assert (data["seed"], data["runs"][0]["options"]) == (7, [["level", "basic"]])
    assert (project / "a.xml").is_file()
    data = json.loads(run("check", "plain.onnx", "folded.onnx", "--json", "--providers", "cpu", "--seed", "1"))
    assert (data["seed"], data["runs"][0]["options"]) == (1, [])
