"""`bnfold lint` finds what `bnfold fold` would remove, and exports that are older than their source."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from bnfold.adapters.onnx_file import fold_file
from bnfold.commands import group
from bnfold.errors import BnfoldError, UnverifiedError
from bnfold.linting import SOURCE
from tests.checking.building import networks

NETWORK = next(iter(networks()))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(group, ["lint", *map(str, arguments)], standalone_mode=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/plain.onnx with BatchNorm, models/deep/folded.onnx without; the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    (tmp_path / "models" / "deep").mkdir(parents=True)
    onnx.save(NETWORK.model(), tmp_path / "models" / "plain.onnx")
    fold_file(tmp_path / "models" / "plain.onnx", tmp_path / "models" / "deep" / "folded.onnx")
    return tmp_path


def test_what_opens_pytorch_files_is_no_matter_of_onnx_files(project: Path) -> None:
    result = run("models", "--arch", "lenet", "--input", "1x1x28x28")
    assert result.return_value == 1
    assert "models/plain.onnx: foldable: 3 affines" in result.output


def test_foldable_models_are_named(project: Path) -> None:
    result = run("models")
    assert result.return_value == 1
    assert "models/plain.onnx: foldable: 3 affines can be folded; run bnfold fold models/plain.onnx" in result.output
    assert "    c1/BatchNormalization, c2/BatchNormalization, c3/BatchNormalization\n" in result.output
    assert "folded.onnx" not in result.output
    assert result.output.endswith("2 models: 1 with findings\n")


def test_folded_models_pass(project: Path) -> None:
    result = run("models/deep")
    assert (result.return_value, result.output) == (0, "1 model: nothing to fold\n")


def test_json(project: Path) -> None:
    result = run("models", "--json")
    data = json.loads(result.output)
    assert result.return_value == 1
    assert data["files"] == ["models/plain.onnx", "models/deep/folded.onnx"]
    assert [(row["path"], row["rule"], len(row["affines"])) for row in data["findings"]] == [
        ("models/plain.onnx", "foldable", 3)
    ]


def test_annotations_in_a_workflow(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "::error title=bnfold foldable,file=models/plain.onnx::models/plain.onnx: 3 affines" in run("models").output


def test_settings_say_where_to_look_and_what_to_leave(project: Path) -> None:
    settings = project / "pyproject.toml"
    settings.write_text('[tool.bnfold.lint]\npaths = ["models"]\n')
    assert run().return_value == 1
    settings.write_text('[tool.bnfold.lint]\npaths = ["models"]\nallow = ["models/plain*"]\n')
    assert run().return_value == 0
    settings.write_text('[tool.bnfold]\nskip = ["c?/*"]\n[tool.bnfold.lint]\npaths = ["models"]\n')
    assert run().return_value == 0


def exported(project: Path, source: bytes, recorded: bytes) -> Path:
    """A folded model beside its source, with the digest of what it says that it was made from."""
    path = project / "models" / "deep" / "folded.onnx"
    model = onnx.load(path)
    model.metadata_props.add(key=SOURCE, value=hashlib.sha256(recorded).hexdigest())
    onnx.save(model, path)
    path.with_suffix(".pt").write_bytes(source)
    return path


def test_an_export_of_an_older_source_is_stale(project: Path) -> None:
    path = exported(project, b"new", b"old")
    result = run(path)
    assert result.return_value == 1
    assert "stale: it was folded from an older" in result.output
    assert "bnfold export" in result.output


def test_an_export_of_its_source_is_not_stale(project: Path) -> None:
    path = exported(project, b"same", b"same")
    assert run(path).return_value == 0
    path.with_suffix(".pt").unlink()  # its source is not committed: nothing to compare with
    assert run(path).return_value == 0


def test_what_cannot_be_examined_does_not_pass(project: Path) -> None:
    (project / "models" / "deep" / "broken.onnx").write_bytes(b"\x08\x09garbage")
    result = run("models/deep")
    assert result.return_value == 3
    assert "broken.onnx: unreadable:" in result.output


def test_a_finding_outweighs_what_cannot_be_examined(project: Path) -> None:
    (project / "models" / "broken.onnx").write_bytes(b"")
    assert run("models").return_value == 1


def test_nothing_to_look_at_is_no_pass(project: Path) -> None:
    (project / "empty").mkdir()
    assert isinstance(run("empty").exception, UnverifiedError)
    assert isinstance(run("models", "empty").exception, UnverifiedError)
    missing = run("nowhere").exception
    assert isinstance(missing, BnfoldError)
    assert "no such file" in str(missing)
    assert run().exit_code != 0


def test_a_folder_that_can_not_be_looked_into_is_no_pass(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused = run("models").exception
    assert isinstance(refused, UnverifiedError)
    assert "can't be looked into (Permission denied)" in str(refused)


def test_capitals_of_an_extension_hide_nothing(project: Path) -> None:
    folder = project / "capitals"
    folder.mkdir()
    onnx.save(NETWORK.model(), folder / "plain.onnx")
    (folder / "plain.onnx").rename(folder / "PLAIN.ONNX")
    assert run("capitals").return_value == 1


def test_hidden_folders_are_passed_over(project: Path) -> None:
    (project / ".venv").mkdir()
    onnx.save(NETWORK.model(), project / ".venv" / "plain.onnx")
    assert run("models/deep", ".").output.count("plain.onnx: foldable") == 1


def test_the_state_of_a_training_is_no_model(project: Path) -> None:
    for name in ("alone/net.resume.pt", "beside/net.resume.pt", "beside/net.onnx"):
        (project / name).parent.mkdir(exist_ok=True)
        onnx.save(NETWORK.model(), project / name)
    assert "no model file" in str(run("alone").exception)
    assert "1 model: 1 with findings" in run("beside").output


def test_onnx_needs_no_torch(project: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from bnfold.commands import main; main()"
    found = subprocess.run([sys.executable, "-c", code, "lint", "models"], capture_output=True, text=True, cwd=project)
    assert (found.returncode, found.stderr) == (1, "")
