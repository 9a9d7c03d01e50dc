"""What torch's exporter has folded, and what it has only left out."""

import pytest
import torch
from torch import nn

from bnfold.adapters.torch_capture import quietly
from bnfold.checking import check


class WithAHead(nn.Module):
    """In eval mode nobody reads the second BatchNorm, as in networks with auxiliary classifiers."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.bn(self.conv(x))
        self.head(x)
        return x


@pytest.mark.parametrize("folded", [True, False])
def test_a_batch_norm_that_nobody_reads_was_not_folded(folded):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with quietly():
        program = torch.onnx.export(WithAHead().eval(), (x,), dynamo=True, optimize=folded, verbose=False)
    model = program.model_proto
    result = check(model, model, localise=False)
    if folded:
        assert result.exit_status == 3
        assert ": 1 BatchNorms were folded when it was exported" in result.reasons[0]
    else:
        assert result.passed, result.reasons
        (warning,) = (warning for warning in result.warnings if "BatchNorm" in warning)
        assert "1 BatchNorm of the module that was exported can't be found in it" in warning
