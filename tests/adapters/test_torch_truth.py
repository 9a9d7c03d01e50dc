"""The comparison of outputs: an activation that leaves next to nothing, and faults behind one."""

import pytest
import torch
from torch import Tensor, nn

from bnfold.adapters.torch_capture import arguments
from bnfold.adapters.torch_truth import Truth, outputs, require_same, truth
from bnfold.errors import DifferentError, UnverifiedError


class NearlyDead(nn.Module):
    """A ReLU that lets one number of 64 through, and that one is small."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = x - 3.0
        return self.relu(y).flatten(1)


def example() -> Tensor:
    x = torch.linspace(-3, 2.9, 64).reshape(1, 4, 4, 4)
    x[0, 3, 3, 3] = 3.03
    return x


@pytest.mark.parametrize("inplace", [False, True])
def test_the_scale_behind_a_relu_is_that_of_its_operand(inplace: bool) -> None:
    found = truth(NearlyDead(inplace), arguments(example()))
    ((scale,), (output,)) = found.scales, found.tensors
    assert scale == pytest.approx(float((example().double() - 3).square().mean().sqrt()))
    assert int((output != 0).sum()) == 1


@pytest.mark.parametrize(("offset", "passes"), [(2e-7, True), (-2e-7, True), (1e-4, False), (-1e-4, False)])
def test_rounding_before_a_relu_passes_and_a_fault_does_not(offset: float, passes: bool) -> None:
    given = arguments(example())
    right = outputs(NearlyDead(False), given)
    wrong = [item + offset * (item != 0) for item in right]
    if passes:
        require_same(truth(NearlyDead(False), given), right, wrong, "it")
        return
    with pytest.raises(DifferentError, match="it: output 0: error"):
        require_same(truth(NearlyDead(False), given), right, wrong, "it")


@pytest.mark.parametrize(
    ("dtype", "way_out"), [(torch.float32, "inputs like those it was trained on"), (torch.bfloat16, "in float32")]
)
def test_a_reference_that_proves_nothing_is_told_with_a_way_out(dtype: torch.dtype, way_out: str) -> None:
    wide = torch.linspace(-1, 1, 32, dtype=torch.float64)
    off = (wide * 1.3).to(dtype)
    with pytest.raises(UnverifiedError, match=f"it: output 0: the original itself is 0.3 of its scale.*; .*{way_out}"):
        require_same(Truth([wide], [float(wide.square().mean().sqrt())]), [off], [off], "it")
