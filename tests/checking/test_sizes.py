"""Models that take inputs of fixed sizes: of one that both take, or nothing is verified, and the report says why."""

from pathlib import Path

import onnx
import pytest

import bnfold
from tests.adapters.onnx_cases import model


def saved(dims: str, path: Path) -> Path:
    text = f"(float[{dims}] x) => (float[a,4,b,c] y) {{ c = Conv(x, w) y = Relu(c) }}"
    onnx.save(model(text, w=(4, 3, 3, 3)), path)
    return path


@pytest.mark.parametrize(("ours", "theirs"), [("2,3,8,8", "2,3,16,16"), ("2,3,8,8", "5,3,8,8"), ("n,3,8,8", "n,3,8,9")])
def test_no_common_size_is_told_with_the_way_out(ours: str, theirs: str, tmp_path: Path) -> None:
    result = bnfold.check(saved(ours, tmp_path / "a.onnx"), saved(theirs, tmp_path / "b.onnx"))
    assert result.exit_status == 3
    (run,) = result.runs
    ours, theirs = (dims.replace(",", ", ") for dims in (ours, theirs))
    assert run.why == (
        f"b.onnx takes x as ({theirs}), the reference takes x as ({ours}): no size is one that both take;"
        " export one of them anew, at the size of the other or with axes of any length",
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), [("2,3,8,8", "2,3,8,8"), ("n,3,8,8", "5,3,8,8"), ("2,3,8,8", "n,3,h,w"), ("n,3,h,8", "4,3,9,w")]
)
def test_a_size_that_both_take_is_compared(ours: str, theirs: str, tmp_path: Path) -> None:
    assert bnfold.check(saved(ours, tmp_path / "a.onnx"), saved(theirs, tmp_path / "b.onnx")).passed
