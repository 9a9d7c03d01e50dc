"""The exit status of the whole program."""

import os
import subprocess
import sys

import pytest

from bnfold import commands
from bnfold.errors import BnfoldError


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("boom"), 2), (KeyboardInterrupt(), 130), (BnfoldError("bad"), 2)],
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
    assert ("Traceback" in shown) == isinstance(error, RuntimeError)
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


def test_a_shell_can_complete_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"_BNFOLD_COMPLETE": "bash_complete", "COMP_WORDS": "bnfold ex", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    assert commands.run([]) == 0
    assert capsys.readouterr().out.split() == ["plain,export", "plain,explain"]
