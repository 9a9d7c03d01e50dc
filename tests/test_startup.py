"""`--help` and `--version` answer without the libraries that take seconds to import; mistakes get suggestions."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from bnfold.adapters.onnx_graph import KNOWN
from bnfold.commands import COMMANDS

MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,1,8,8] x) => (float[N,1,8,8] y)
<float[1,1,1,1] w = {2}, float[1] s = {3}, float[1] b = {4}, float[1] m = {5}, float[1] v = {6}>
{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"""
HEAVY = ("torch", "onnx", "onnxruntime", "onnxsim", "rich", "numpy", "sklearn")


def imported_by(*arguments: str) -> tuple[int, str, set[str]]:
    """Run the command line; gives its status, the threads that BLAS was given, and the modules that it imported."""
    script = (
        "import json, os, sys\n"
        f"sys.argv = ['bnfold', *{list(arguments)!r}]\n"
        "from bnfold.commands import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    threads = os.environ.get('OPENBLAS_NUM_THREADS', '')\n"
        "    print('\\n' + json.dumps([end.code, threads, sorted(sys.modules)]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    status, threads, names = json.loads(done.stdout.splitlines()[-1])
    return status or 0, threads, set(names)


def loaded_after(*arguments: str) -> tuple[int, set[str]]:
    """Run the command line and give its status and the packages that it imported."""
    status, _, names = imported_by(*arguments)
    return status, {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("raw", [True, False])
def test_folding_an_onnx_file_imports_no_more_than_it_needs(tmp_path: Path, raw: bool) -> None:
    model = onnx.parser.parse_model(MODEL)
    for item in model.graph.initializer if raw else ():  # as exporters write them
        item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item), item.name))
    onnx.save(model, tmp_path / "model.onnx")
    status, threads, names = imported_by("fold", str(tmp_path / "model.onnx"))
    assert (status, threads) == (0, "1")
    slow = {"torch", "onnxruntime", "rich", "numpy.ma", "numpy.polynomial", "concurrent.futures", "hashlib"}
    slow |= {"bnfold.checking", "onnx"}
    assert not slow & names


ALONE = """
import sys
from bnfold.commands.lean import with_protos_alone
with_protos_alone()
from bnfold.adapters.onnx_protos import ModelProto
assert "onnx" not in sys.modules
import onnx
head = '<ir_version: 8, opset_import: ["" : 17]> '
model = onnx.parser.parse_model(head + "g (float[1] x) => (float[1] y) { y = Relu(x) }")
assert type(model) is ModelProto
onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
"""
LOADED = """
import onnx, sys
before = dict(sys.modules)
from bnfold.commands.lean import with_protos_alone
with_protos_alone()
assert sys.modules["onnx.onnx_ml_pb2"] is before["onnx.onnx_ml_pb2"]
"""


@pytest.mark.parametrize("script", [ALONE, LOADED], ids=["alone", "loaded"])
def test_the_protos_are_those_of_the_package(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True)


IDLE = """
from bnfold.commands.lean import without_idle_modules
without_idle_modules()
import sys, types
import numpy
from google.protobuf.internal import builder
names = ("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars", "google.protobuf.internal.python_message")
assert all(type(sys.modules[name]) is not types.ModuleType for name in names)
assert numpy.add.reduce([1, 2]) == 3 and not numpy.array.__doc__
assert builder.python_message.GeneratedProtocolMessageType and numpy._core._add_newdocs.add_newdoc
assert "Create an array" in numpy.array.__doc__
assert all(type(sys.modules[name]) is types.ModuleType for name in (names[0], names[2]))
"""


def test_modules_that_nobody_looks_into_are_loaded_at_the_first_look() -> None:
    subprocess.run([sys.executable, "-c", IDLE], check=True)


def test_every_allowed_onnx_knows_the_opsets_that_nobody_is_asked_about() -> None:
    requirements = Path("pyproject.toml").read_text()
    oldest = re.search(r'"onnx>=([\d.]+)"', requirements)
    assert oldest is not None
    opset = next(row[2] for row in onnx.helper.VERSION_TABLE if row[0] == f"{oldest[1]}.0")
    assert opset >= KNOWN


@pytest.mark.parametrize(("arguments", "collects"), [(["fold"], False), (["fold", "--verify"], True), (["lint"], True)])
def test_only_a_short_run_does_without_the_collector(tmp_path: Path, arguments: list[str], collects: bool) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    script = (
        "import gc, sys\n"
        f"sys.argv = ['bnfold', *{arguments!r}, {str(tmp_path / 'model.onnx')!r}]\n"
        "from bnfold.commands import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(collects)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "cli.py", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_answers_without_heavy_imports(option: str) -> None:
    status, names = loaded_after(option)
    assert status == 0
    assert not names & set(HEAVY)


def test_importing_bnfold_is_light() -> None:
    script = f"import bnfold, sys; assert not set({HEAVY!r}) & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_without_torch(command: str) -> None:
    status, names = loaded_after(command, "--help")
    assert status == 0
    assert not names & {"torch", "onnxruntime", "onnxsim"}


def test_a_misspelt_command_gets_a_suggestion() -> None:
    done = run("chekc")
    assert done.returncode == 2
    assert "Did you mean check?" in done.stderr


def test_a_misspelt_option_gets_a_suggestion() -> None:
    done = run("train", "lenet", "--epoch", "3")
    assert done.returncode == 2
    assert "--epochs" in done.stderr


def test_no_arguments_show_the_help() -> None:
    done = run()
    assert "Commands:" in done.stdout + done.stderr
