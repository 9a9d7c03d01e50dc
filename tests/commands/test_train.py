"""`bnfold train` as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from bnfold import load
from bnfold.commands import group
from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def bnfold(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bnfold", *arguments],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_lenet_reaches_97_percent_on_the_digits(tmp_path):
    done = bnfold(tmp_path, "train", "lenet", "--data", "digits", "-o", "model.pt")
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"accuracy ([\d.]+)%", done.stdout)[1]) >= 97
    assert done.stdout.splitlines()[-1] == (
        "wrote model.pt, and beside it model.last.pt, model.resume.pt, model.jsonl, model.svg"
    )
    assert done.stderr == ""


def test_the_result_as_json(tmp_path):
    done = bnfold(tmp_path, "train", "mlp", "--data", "digits", "--epochs", "2", "-o", "model.pt", "--json")
    told = json.loads(done.stdout)
    assert (told["format"], told["version"]) == ("bnfold.train", 1)
    assert [epoch["epoch"] for epoch in told["epochs"]] == [1, 2]
    assert told["best"] in told["epochs"]
    assert told["settings"]["architecture"] == "mlp"
    assert set(told["files"].values()) == {path.name for path in tmp_path.iterdir()}


def test_ctrl_c_saves_and_the_run_can_be_continued(tmp_path):
    command = [sys.executable, "-m", "bnfold", "train", "mlp", "--epochs", "100000", "-o", "model.pt"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "model.resume.pt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(
        r"bnfold: interrupted in epoch \d+, after batch \d+ of 23; "
        r"saved model.last.pt and model.resume.pt, continue with --resume\n",
        message,
    )
    epochs = sum('"epoch"' in line for line in (tmp_path / "model.jsonl").read_text().splitlines())
    done = bnfold(tmp_path, "train", "mlp", "--resume", "--epochs", str(epochs + 1))
    assert done.returncode == 0, done.stderr
    assert f"{epochs + 1} epochs" in done.stdout


def invoke(*arguments):
    return CliRunner().invoke(group, ["train", *arguments], standalone_mode=False)


def test_help_names_all_architectures():
    output = CliRunner().invoke(group, ["train", "--help"]).output
    for name, architecture in ARCHITECTURES.items():
        assert re.search(rf"^ +{name} +{architecture.summary}$", output, re.MULTILINE)


MISSPELT = [
    (("lenett",), "Did you mean lenet?"),
    (("lenet", "--optimiser", "adm"), "Did you mean adam?"),
    (("lenet", "--schedule", "cosin"), "Did you mean cosine?"),
    (("lenet", "--optimizr", "adam"), "'--optimizer'"),
    (("xyz",), "is not one of 'lenet'"),
    (("lenet", "--epochs", "many"), "'many' is not a valid integer"),
]


@pytest.mark.parametrize(("arguments", "message"), MISSPELT)
def test_misspelt_names(arguments, message):
    done = CliRunner().invoke(group, ["train", *arguments])
    assert done.exit_code == 2
    assert message in done.output


WRONG = [
    (("lenet", "--data", "digit"), "did you mean digits?"),
    (("lenet", "--data", "idx:nowhere"), "idx:nowhere: no such folder"),
    (("lenet", "--batch-size", "1"), "batch size 1: must be 2 or more"),
    (("lenet", "-o", "model.onnx"), "name ends in .pt"),
    (("lenet", "--device", "warp"), "device 'warp': can't be used"),
    (("lenet", "--resume"), "model.resume.pt: no such file"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_values_get_one_line_and_write_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    error = invoke(*arguments).exception
    assert isinstance(error, BnfoldError)
    assert error.exit_status == 2
    assert message in str(error)
    assert "\n" not in str(error)
    assert list(tmp_path.iterdir()) == []


def test_resume_keeps_its_settings_and_refuses_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("mlp", "--epochs", "1", "--lr", "0.002").exit_code == 0
    assert "2 epochs" in invoke("mlp", "--resume", "--epochs", "2").output
    with pytest.raises(BnfoldError, match="is the state of a run of bnfold train, and no model; give the checkpoint"):
        load("model.resume.pt")
    assert '"learning_rate": 0.002' in (tmp_path / "model.jsonl").read_text()
    for arguments, message in (
        (("lenet",), "has architecture 'mlp', not 'lenet'"),
        (("mlp", "--lr", "0.1"), "has learning rate 0.002, not 0.1"),
        (("mlp", "--epochs", "1"), "2 epochs are done"),
    ):
        error = invoke(*arguments, "--resume").exception
        assert isinstance(error, BnfoldError)
        assert message in str(error)


def test_quiet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("mlp", "--epochs", "1", "--quiet").output == ""
    assert (tmp_path / "model.pt").exists()


def test_help_imports_neither_torch_nor_numpy():
    code = "import sys; from bnfold.commands import train; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "bnfold.commands.train" in modules
    assert not {"torch", "numpy", "onnx", "rich"} & set(modules)
