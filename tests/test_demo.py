"""`make demo` runs the commands that it shows, stops at the first that fails, and trains once."""

from pathlib import Path

import pytest

from bnfold import demo


def test_it_trains_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[str] = []
    monkeypatch.setattr(demo, "run", lambda step: ran.append(step) or 0)
    assert demo.main() == 0
    assert ran == list(demo.STEPS)
    demo.MODEL.touch()
    ran.clear()
    assert demo.main() == 0
    assert ran == list(demo.STEPS[1:])
    shown = capsys.readouterr().out
    assert "remove it to train anew" in shown
    assert all(f"{demo.FOLDER / name}: " in shown for name in demo.RESULTS)


def test_it_stops_at_the_first_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "STEPS", ("bnfold explain", "bnfold fold missing.pt", "bnfold explain nothing"))
    assert demo.main() == 2


def test_errors_have_their_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.run("bnfold explain") == 0
    assert demo.run("bnfold fold missing.pt") == 2
