"""A forward that torch.export can't follow: one line that says where, and nothing of torch's insides on stderr."""

import sys

import pytest
import torch
from torch import Tensor, nn

from bnfold.adapters.torch_capture import CaptureError, arguments, capture


class Deciding(nn.Module):
    """Decides by numbers, and says so on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        sys.stderr.write("first line\nsecond line\n")
        y: Tensor = self.conv(x)
        if y.mean() > 0:
            y = y + 1
        return y


def test_the_error_names_the_line_and_torch_prints_no_graph(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError, match=r"Deciding: .*; at test_torch_capture.py, line \d+: if y.mean\(\) > 0:\)$"):
        capture(Deciding().eval(), arguments(torch.randn(1, 3, 2, 2)))
    assert capsys.readouterr() == ("", "first line\nsecond line\n")


def test_what_a_forward_prints_stays_where_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    class Printing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sys.stderr.write("own\n")
            return x + 1

    capture(Printing().eval(), arguments(torch.randn(1, 3)))
    assert capsys.readouterr().err == "own\n"
