"""The models that come with onnx (weights made by ConstantOfShape), and its own node tests as they are."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest

from bnfold.adapters.onnx_file import fold_file, fold_proto
from bnfold.adapters.onnx_graph import OLDEST
from bnfold.errors import BnfoldError
from tests.adapters.node_tests import node_tests
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


@cache
def cases():
    """The node tests of opsets that are read, and of models without ONNX's own operators."""
    return [case for case in node_tests() if max(opset_of(case.model) or [OLDEST]) >= OLDEST]


def opset_of(model):
    return [item.version for item in model.opset_import if item.domain == ""]


def is_kept(case, path):
    """Fold a test's model and compare its outputs; False where nothing changes."""
    folded = fold_proto(case.model).model
    if folded == case.model:
        return False
    onnx.checker.check_model(folded, full_check=True)
    onnx.save(folded, path)
    for inputs, outputs in case.data_sets:
        names = [item.name for item in case.model.graph.input]
        found = run(path, dict(zip(names, inputs, strict=True)))
        for got, wanted in zip(found, outputs, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=case.rtol, atol=case.atol, err_msg=case.name)
    return True


def test_every_node_test_is_read_and_keeps_its_outputs(tmp_path):
    """Functions that were taken apart into plain operators among them, with constants that chains of nodes compute."""
    changed = [case.name for case in cases() if is_kept(case, tmp_path / "folded.onnx")]
    assert len(cases()) > 1500
    assert len(changed) > 25
