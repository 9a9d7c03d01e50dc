"""Hostile and broken files: one line, exit status 2 or 4, bounded time and memory."""

import subprocess
import sys
import time
import tracemalloc

import onnx
import pytest

from bnfold.adapters.onnx_file import fold_file
from bnfold.errors import BnfoldError
from tests.adapters.hostile_onnx import CORPUS

LEFT = {"bomb", "expand_bomb", "chained_bombs", "statistics_of_another_size", "groups_that_do_not_divide", "no_groups"}
LEFT |= {"a_filled_weight", "a_repeated_weight"}
LEFT |= {"few_inputs", "flat_weight", "wrong_attributes"}
LEFT |= {"an_axis_of_2_to_the_30", "a_large_image_flattened", "a_large_image_rearranged", "a_slice_of_a_large_axis"}
LEFT |= {"parts_of_a_large_axis", "a_large_tile", "large_blocks", "a_split_with_more_outputs_than_it_says"}
FOLDED = {"nan_weights", "bytes_in_names"}
SECONDS, BYTES = 5, 64 << 20


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_file_is_refused_or_left_as_it_is(name, tmp_path):
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    source.write_bytes(CORPUS[name]())
    tracemalloc.start()
    began = time.monotonic()
    try:
        if name in LEFT | FOLDED:
            folded = fold_file(source, target).plan.folded
            assert bool(folded) == (name in FOLDED)
            assert folded or target.read_bytes() == source.read_bytes()
        else:
            with pytest.raises(BnfoldError) as caught:
                fold_file(source, target)
            assert caught.value.exit_status in (2, 4)
            assert len(str(caught.value).splitlines()) == 1
            assert str(source) in str(caught.value)
            assert not target.exists()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - began < SECONDS
    assert peak < BYTES


@pytest.mark.parametrize("path", ["missing.onnx", "."])
def test_a_path_that_is_no_file(path, tmp_path):
    with pytest.raises(BnfoldError, match=r"can't be read|regular file"):
        fold_file(tmp_path / path, tmp_path / "folded.onnx")


def test_the_whole_path_does_without_torch_and_onnxruntime(tmp_path):
    from tests.adapters.onnx_cases import batch_norm, model

    text = "(float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) y = BN(c) }"
    onnx.save(model(text, w=(4, 3, 3, 3), **batch_norm(4)), tmp_path / "model.onnx")
    script = f"""
import sys
sys.modules["torch"] = sys.modules["onnxruntime"] = None
from bnfold.adapters.onnx_file import fold_file
result = fold_file({str(tmp_path / "model.onnx")!r}, {str(tmp_path / "folded.onnx")!r})
assert len(result.plan.folded) == 1
assert not {{"rich", "onnxsim", "onnx.reference", "bnfold.training"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
    assert [node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node] == ["Conv"]
