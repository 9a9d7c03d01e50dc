"""A plan that somebody changed: what comes of it is never written."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnfold.commands import group
from tests.adapters.onnx_cases import batch_norm, saved


@pytest.fixture
def source(tmp_path: Path) -> Path:
    text = "(float[N,3,8,8] x) => (float[N,4,h,w] y) { c = Conv(x, w) d = BN(c) y = Relu(d) }"
    return saved(tmp_path, text, w=(4, 3, 3, 3), **batch_norm(4))


@pytest.mark.parametrize("missing", ["ScaleWeight", "SetBias", "Remove"])
def test_a_plan_that_lacks_an_edit_is_not_carried_out(source, missing):
    plan, target = source.with_name("plan.json"), source.with_name("out.onnx")
    assert CliRunner().invoke(group, ["fold", str(source), "--save-plan", str(plan), "--dry-run"]).exit_code == 0
    content = json.loads(plan.read_text())
    content["edits"] = [edit for edit in content["edits"] if edit["edit"] != missing]
    plan.write_text(json.dumps(content))
    result = CliRunner().invoke(group, ["fold", str(source), "--plan", str(plan), "-o", str(target)])
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert not target.exists()
