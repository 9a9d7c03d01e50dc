"""`--help` and `--version` answer without the libraries that take seconds to import; mistakes get suggestions."""

import json
import subprocess
import sys

import pytest

from bnfold.commands import COMMANDS

HEAVY = ("torch", "onnx", "onnxruntime", "onnxsim", "rich", "numpy", "sklearn")


def loaded_after(*arguments: str) -> tuple[int, set[str]]:
    """Run the command line and give its status and the modules that it imported."""
    script = (
        "import json, sys\n"
        f"sys.argv = ['bnfold', *{list(arguments)!r}]\n"
        "from bnfold.commands import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print('\\n' + json.dumps([end.code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    status, names = json.loads(done.stdout.splitlines()[-1])
    return status or 0, {name.partition(".")[0] for name in names}


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
