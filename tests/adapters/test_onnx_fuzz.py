"""A few seconds of what `make fuzz` does for as long as it is left running."""

import pytest

from tests.adapters.onnx_target import mutations, one, seeds


@pytest.mark.parametrize("seed", range(5))
def test_mutated_files_end_in_a_result_or_in_one_line(seed):
    for data in mutations(60, seed):
        one(data)


def test_the_seeds_themselves():
    for data in seeds():
        one(data)
