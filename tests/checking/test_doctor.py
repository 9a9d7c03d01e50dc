"""The doctor names the trap, the missing library and the missing package."""

import json
import subprocess
import sys

import pytest

from bnfold.checking import doctor
from bnfold.checking.doctor import Level, diagnose, missing_library
from bnfold.checking.ort import ProviderMissingError


def texts(diagnosis, level):
    return [finding.what for finding in diagnosis.findings if finding.level is level]


def test_a_working_installation():
    diagnosis = diagnose()
    assert diagnosis.exit_status == 0
    assert "cpu: loads; every node ran there" in texts(diagnosis, Level.OK)


def test_two_packages_at_once(monkeypatch):
    both = (("onnxruntime", "1.2"), ("onnxruntime-gpu", "1.3"))
    monkeypatch.setattr(doctor, "installed", lambda names: both if "onnxruntime-gpu" in names else ())
    diagnosis = diagnose()
    assert diagnosis.exit_status == 3
    (problem,) = texts(diagnosis, Level.PROBLEM)
    assert "onnxruntime and onnxruntime-gpu are installed together" in problem


def test_no_package(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda names: ())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    diagnosis = diagnose()
    assert diagnosis.exit_status == 3
    assert texts(diagnosis, Level.PROBLEM) == ["no ONNX Runtime is installed"]


def test_a_provider_that_does_not_load(monkeypatch):
    def refuse(model, target):
        raise ProviderMissingError("provider cpu did not load")

    monkeypatch.setattr(doctor, "open_session", refuse)
    monkeypatch.setattr(doctor, "missing_library", lambda path: "libcublasLt.so.13")
    (finding,) = [f for f in diagnose().findings if "not usable" in f.what]
    assert "libcublasLt.so.13" in finding.advice


def test_missing_library_is_named(tmp_path):
    broken = tmp_path / "libonnxruntime_providers_cuda.so"
    broken.write_bytes(b"\x7fELF")
    assert missing_library(broken) == str(broken)  # the loader names the file itself: it is cut short
    assert missing_library(tmp_path / "none.so") == ""


def test_command():
    done = subprocess.run([sys.executable, "-m", "bnfold", "doctor", "--json"], capture_output=True, text=True)
    assert done.returncode == 0
    assert {"ok", "note"} >= {finding["level"] for finding in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize("lines", [["GPU A, 550.1, 80 GiB"], []])
def test_gpu(monkeypatch, lines):
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: lines)
    found = [finding.what for finding in diagnose().findings]
    assert ("GPU: GPU A, 550.1, 80 GiB" in found) is bool(lines)
    assert ("no NVIDIA GPU or driver found" in found) is not bool(lines)
