"""`make demo` runs the commands that it shows, stops at the first that fails, and trains once, to the end."""

from pathlib import Path

import pytest

from bnfold import demo
from bnfold.training import train


class Killed(BaseException):
    """Ends a run as a signal would: nothing is saved."""


class KillAfter:
    """A progress that ends the run after an epoch's files were written, or not at all."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def shown(self, settings, history):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def batch_done(self, *_):
        return None

    def epoch_done(self, epoch):
        if epoch.epoch == self.epoch:
            raise Killed


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that are run, in an empty folder and without running them."""
    monkeypatch.chdir(tmp_path)
    demo.FOLDER.mkdir()
    steps: list[str] = []
    monkeypatch.setattr(demo, "run", lambda step: steps.append(step) or 0)
    return steps


def trained(epochs: int = 2, killed_after: int = 0) -> None:
    train("mlp", data="digits", output=demo.MODEL, progress=KillAfter(killed_after), epochs=epochs, batch_size=512)


def test_it_trains_once(ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main() == 0
    assert ran == list(demo.STEPS)
    trained()
    ran.clear()
    assert demo.main() == 0
    assert ran == list(demo.STEPS[1:])
    shown = capsys.readouterr().out
    assert "remove it to train anew" in shown
    assert all(f"{demo.FOLDER / name}: " in shown for name in demo.RESULTS)
    demo.MODEL.unlink()
    ran.clear()
    assert demo.main() == 0
    assert ran == list(demo.STEPS)


def test_a_training_that_was_killed_goes_on(ran: list[str]) -> None:
    with pytest.raises(Killed):
        trained(killed_after=1)
    assert demo.main() == 0
    assert ran == [f"{demo.STEPS[0]} --resume", *demo.STEPS[1:]]


def test_the_state_of_another_run_does_not_make_a_checkpoint_trained(ran: list[str]) -> None:
    with pytest.raises(Killed):
        trained(killed_after=1)
    half = demo.MODEL.read_bytes()
    trained()
    demo.MODEL.write_bytes(half)
    assert demo.main() == 0
    assert ran[0] == f"{demo.STEPS[0]} --resume"


def test_a_checkpoint_that_does_not_tell_is_trained_anew(ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    demo.MODEL.with_suffix(".resume.pt").unlink()
    assert demo.main() == 0
    assert ran == list(demo.STEPS)
    assert "trained anew" in capsys.readouterr().out


def test_it_stops_at_the_first_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "STEPS", ("bnfold explain", "bnfold fold missing.pt", "bnfold explain nothing"))
    assert demo.main() == 2


def test_errors_have_their_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.run("bnfold explain") == 0
    assert demo.run("bnfold fold missing.pt") == 2
