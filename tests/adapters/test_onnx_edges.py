"""ONNX files at the edges of what the rules assume: either nothing is folded, or the outputs stay the same."""

from collections.abc import Mapping

import numpy as np
import pytest

from bnfold import fold
from tests.adapters.onnx_cases import batch_norm, fold_and_check, model, numbers

W: Mapping[str, object] = {"w": (4, 3, 3, 3)}
BN = batch_norm(4)
IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
TOKENS = "(float[N,5,8] x) => (float[N,5,8] y)"
MASK = np.array([0, 1, 1, 1, 1, 1, 1, 0], np.float32)  # but for the dead channels it is the identity
POOLS = ("MaxPool<kernel_shape=[3], pads=[1,1]>", "AveragePool<kernel_shape=[3], pads=[1,1]>")


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("mask", [MASK, MASK * numbers("m", (8,))], ids=["mask", "scale"])
def test_a_dead_channel_that_a_pooling_mixes_with_others_stays(tmp_path, pool, mask):
    text = TOKENS + "{ a = MatMul(x, v) h = Add(a, b) p = " + pool + "(h) y = Mul(p, m) }"
    _, result = fold_and_check(model(text, v=(8, 8), b=(8,), m=mask), tmp_path)
    assert not result.plan.folded


@pytest.mark.parametrize("level", ["default", "max"])
def test_a_clip_with_crossed_bounds_is_not_moved(tmp_path, level):
    bounds = {"lo": np.array(1, np.float32), "hi": np.array(-1, np.float32)}
    proto = model(IMAGE + "{ c = Conv(x, w) d = Clip(c, lo, hi) y = BN(d) }", **W, **BN, **bounds)
    assert not fold_and_check(proto, tmp_path, level=level)[1].plan.folded


@pytest.mark.parametrize("declared", ["float[]", "float[N,7]", "float[N,4,9,9]", "float[9,4,h,w]"])
def test_the_shape_that_a_file_declares_for_its_output_is_not_believed(tmp_path, declared):
    text = IMAGE + "{ c = Conv(x, w) d = BN(c) y = Relu(d) }"
    proto = model(text.replace("float[N,4,h,w]", declared), **W, **BN)
    result = fold(proto)
    assert [outcome.affine for outcome in result.plan.folded] == ["d"]
