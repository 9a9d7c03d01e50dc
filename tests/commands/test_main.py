"""The exit status of the whole program."""

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bnfold import commands
from bnfold.errors import BnfoldError
from tests.checking.building import networks


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("boom"), 2),
        (KeyboardInterrupt(), 130),
        (BnfoldError("bad"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "locked/x.npz"), 2),
        (OSError(errno.EINVAL, "Invalid argument", "x"), 2),
    ],
    ids=repr,
)
def test_a_crash_is_no_difference(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> None:
        raise error

    monkeypatch.setattr(commands, "run", fail)
    with pytest.raises(SystemExit) as exit_:
        commands.main()
    assert exit_.value.code == status
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) == (type(error) in (RuntimeError, OSError))
    assert "bnfold: " in shown


@pytest.mark.parametrize("arguments", [["explain"], ["--help"], ["doctor"]])
def test_a_reader_that_goes_away_is_no_difference(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "bnfold", *arguments], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (commands.NOBODY_READS, b"")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_an_output_that_takes_nothing(redirection: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m bnfold explain kink {redirection}"
    ended = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, check=False)
    if redirection == ">&-":
        assert (ended.returncode, ended.stderr) == (0, b"")
    else:
        message = b"bnfold: the output can't be written (No space left on device)\n"
        assert (ended.returncode, ended.stderr) == (2, message)


def test_a_name_that_is_no_text_is_shown(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"\xff.onnx")
    source.write_bytes(next(networks()).model().SerializeToString())
    ended = subprocess.run(
        [sys.executable, "-m", "bnfold", "fold", source],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.splitlines()[-1].endswith(b"\\udcff.folded.onnx")


def test_a_shell_can_complete_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"_BNFOLD_COMPLETE": "bash_complete", "COMP_WORDS": "bnfold ex", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    assert commands.run([]) == 0
    assert capsys.readouterr().out.split() == ["plain,export", "plain,explain"]


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["nothing"], 2), (["fold", "no.onnx"], 2)])
def test_what_is_to_happen_at_the_exit_happens(arguments: list[str], status: int) -> None:
    code = (
        "import atexit, sys; from bnfold.commands import script\n"
        "atexit.register(lambda: print('at the exit', end=''))\n"
        f"sys.argv = ['bnfold', *{arguments!r}]\n"
        "script()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert ended.stdout.endswith("at the exit")


def test_other_threads_end_before_the_process() -> None:
    code = (
        "import sys, threading, time; from bnfold.commands import script\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('ended', flush=True))).start()\n"
        "sys.argv = ['bnfold', '--version']\n"
        "script()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "ended")


@pytest.mark.parametrize(("ignored", "status"), [(False, 143), (True, 0)])
def test_whoever_is_asked_to_end_leaves_nothing_half_written(tmp_path: Path, ignored: bool, status: int) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(next(networks()).model().SerializeToString())
    code = (
        "import os, signal, sys; from bnfold.adapters import onnx_write; from bnfold.commands import script\n"
        f"signal.signal(signal.SIGTERM, signal.SIG_IGN) if {ignored} else None\n"
        "write = onnx_write.write_file\n"
        "def stopped(*arguments):\n"
        "    write(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "onnx_write.write_file = stopped\n"
        f"sys.argv = ['bnfold', 'fold', {str(source)!r}]\n"
        "script()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (status, "" if ignored else "bnfold: terminated\n")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", *(["m.folded.onnx"] if ignored else [])}
