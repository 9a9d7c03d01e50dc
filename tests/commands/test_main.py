"""The exit status of the whole program."""

import pytest

from bnfold import commands


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("boom"), 2), (KeyboardInterrupt(), 130), (commands.BnfoldError("bad"), 2)],
)
def test_a_crash_is_no_difference(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(commands.group, "main", fail)
    with pytest.raises(SystemExit) as exit_:
        commands.main()
    assert exit_.value.code == status
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) == isinstance(error, RuntimeError)
    assert "bnfold: " in shown
