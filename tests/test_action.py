"""The GitHub action: its own script on real models, and its file against that script."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest

from tests.checking.building import networks

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "ci" / "action.sh"
NETWORK = next(iter(networks()))

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the action runs in bash")


@pytest.fixture
def project(tmp_path):
    onnx.save(NETWORK.model(), tmp_path / "plain.onnx")
    onnx.save(NETWORK.model(fold=True), tmp_path / "folded model.onnx")
    onnx.save(NETWORK.model(fold=True, change=_scaled), tmp_path / "wrong.onnx")
    return tmp_path


def _scaled(name, array):
    return array * np.float32(1.01) if name == "c2.weight" else array


def run(project, **inputs):
    """Run the action's script as GitHub does; give its status, its outputs, its log and the step's summary."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {"PATH": path, "HOME": str(project), "OMP_NUM_THREADS": "1", "GITHUB_ACTIONS": "true"}
    files = {"GITHUB_OUTPUT": str(project / "output"), "GITHUB_STEP_SUMMARY": str(project / "summary")}
    for file in files.values():
        Path(file).write_text("")
    given = {f"BNFOLD_{name.upper()}": value for name, value in inputs.items()}
    done = subprocess.run(["bash", SCRIPT], cwd=project, env=here | files | given, capture_output=True, text=True)
    outputs = dict(line.split("=", 1) for line in (project / "output").read_text().splitlines())
    return done.returncode, outputs, done.stdout + done.stderr, (project / "summary").read_text()


def test_a_right_fold(project):
    status, outputs, log, summary = run(project, reference="plain.onnx", candidates="\n  folded model.onnx \n\n")
    assert status == 0, log
    assert outputs == {"verdict": "verified", "exit-status": "0", "reports": "bnfold-report"}
    assert summary.startswith("## ✅ bnfold check: verified\n")
    reports = sorted(file.name for file in (project / "bnfold-report").iterdir())
    assert reports == ["report.html", "report.json", "report.md", "report.sarif", "report.xml"]


def test_a_wrong_fold_beside_a_right_one(project):
    status, outputs, log, summary = run(
        project, reference="plain.onnx", candidates="folded model.onnx\nwrong.onnx", reports="out", lint="wrong.onnx"
    )
    assert status == 1
    assert outputs == {"verdict": "different", "exit-status": "1", "reports": "out"}
    assert "::error title=bnfold output-differs%3A wrong.onnx on cpu%3A fc::" in log
    assert "| wrong.onnx | ❌" in summary
    root = ET.parse(project / "out" / "report.xml").getroot()
    failed = [case.get("name") for case in root.iter("testcase") if case.find("failure") is not None]
    assert len(failed) == 2  # the output, and the constant that is to blame
    assert "wrong.onnx: c2/linear weight" in failed
    assert root.get("errors") == "0"
    assert (project / "out" / "replay.npz").is_file()


def test_a_missing_provider_is_no_pass_unless_allowed(project):
    given = {"reference": "plain.onnx", "candidates": "folded model.onnx", "providers": "tensorrt"}
    status, outputs, *_ = run(project, **given)
    assert (status, outputs["verdict"]) == (3, "unverified")
    status, outputs, _, summary = run(project, **given, allow_missing="true")
    assert (status, outputs["verdict"]) == (0, "skipped")
    assert "⏭️" in summary


def test_lint_alone(project):
    status, outputs, log, _ = run(project, lint="plain.onnx")
    assert (status, outputs["verdict"]) == (1, "error")
    assert "::error title=bnfold foldable,file=plain.onnx::" in log


def test_foldable_models_fail_a_check_that_passed(project):
    status, outputs, *_ = run(project, reference="plain.onnx", candidates="folded model.onnx", lint="plain.onnx")
    assert (status, outputs["verdict"]) == (1, "verified")


@pytest.mark.parametrize("given", [{}, {"reference": "plain.onnx"}, {"reference": "none.onnx", "candidates": "x.onnx"}])
def test_nothing_to_check_is_no_pass(project, given):
    status, outputs, *_ = run(project, **given)
    assert (status, outputs["verdict"]) == (2, "error")


def test_an_earlier_report_is_not_taken_for_this_runs(project):
    (project / "bnfold-report").mkdir()
    (project / "bnfold-report" / "report.json").write_text('{"verdict": "verified"}')
    status, outputs, _, summary = run(project, reference="none.onnx", candidates="none.onnx")
    assert (status, outputs["verdict"], summary) == (2, "error", "")


def test_inputs_are_never_code(project):
    trap = "$(touch trap)`touch trap`;touch trap"
    run(project, reference=trap, candidates=trap, providers=trap, inputs=trap, arguments=trap, lint=trap, reports="r")
    assert not (project / "trap").exists()


def test_the_action_gives_its_script_every_input():
    action = (ROOT / "action.yml").read_text()
    read = set(re.findall(r"\bBNFOLD_\w+", SCRIPT.read_text())) - {"BNFOLD_"}
    given = dict(re.findall(r"(BNFOLD_\w+): \$\{\{ inputs\.([\w-]+) \}\}", action))
    declared = set(re.findall(r"^  ([\w-]+):\n    description", action.split("outputs:")[0], re.MULTILINE))
    assert read == set(given) - {"BNFOLD_EXTRAS"}
    assert set(given.values()) == declared
    assert all(name == f"BNFOLD_{value.upper().replace('-', '_')}" for name, value in given.items())
    steps = re.findall(r"^      run: (.*)$", action, re.MULTILINE)
    assert steps[1] == 'bash "$GITHUB_ACTION_PATH/ci/action.sh"'
    assert not any("${{" in step for step in steps)


def test_the_pre_commit_hook_is_a_command_that_takes_files(project):
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text()
    entry = re.search(r"entry: (.*)", hook)[1].split()
    pattern = re.search(r"files: (.*)", hook)[1]
    files = sorted(file.name for file in project.iterdir() if re.search(pattern, file.name))
    assert files == ["folded model.onnx", "plain.onnx", "wrong.onnx"]
    command = [str(Path(sys.executable).parent / entry[0]), *entry[1:], *files]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 1
    assert "plain.onnx: foldable" in done.stdout
    assert "folded model.onnx" not in done.stdout
