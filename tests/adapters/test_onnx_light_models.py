"""The models that come with onnx (weights made by ConstantOfShape), and its own node tests as they are."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest

from bnfold.adapters.onnx_file import fold_file, fold_proto
from bnfold.errors import BnfoldError
from tests.adapters.onnx_cases import feeds_of, run

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_light_models_keep_their_outputs(path, tmp_path):
    if onnx.load(path).opset_import[0].version < 7:
        with pytest.raises(BnfoldError, match="opset"):
            fold_file(path, tmp_path / "folded.onnx")
        return
    result = fold_file(path, tmp_path / "folded.onnx")
    if not result.plan.edits:
        assert (tmp_path / "folded.onnx").read_bytes() == path.read_bytes()
        return
    onnx.checker.check_model(str(tmp_path / "folded.onnx"), full_check=True)
    feeds = feeds_of(onnx.load(path))
    for got, wanted in zip(run(tmp_path / "folded.onnx", feeds), run(path, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_there_are_light_models():
    assert len(LIGHT) >= 9


@pytest.mark.slow
def test_every_node_test_is_read_and_keeps_its_outputs():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        if max(item.version for item in case.model.opset_import if item.domain == "") < 7:
            continue
        result = fold_proto(case.model)
        if not result.plan.edits:
            assert result.model == case.model
    assert len(cases) > 1500
