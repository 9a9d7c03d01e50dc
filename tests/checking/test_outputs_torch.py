"""Outputs of every form: none is lost, none stands for another, and what can't be laid side by side is said."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bnfold.checking import Verdict, check

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Gives(nn.Module):
    def __init__(self, form: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(4, 4, generator=generator))
        self.form = form

    def forward(self, x: Tensor) -> object:
        return self.form(x, x @ self.weight)


@dataclass
class Pair:
    first: Tensor
    second: Tensor


def compared(reference, candidate):
    return check(Gives(reference).eval(), Gives(candidate).eval(), X)


FORMS = [
    pytest.param(lambda x, y: {"output": {"a": y}, "a": x}, id="a dict under the name of all outputs"),
    pytest.param(lambda x, y: {"a.b": y, "a": {"b": x}}, id="a dot in a key"),
    pytest.param(lambda x, y: {1: y, "1": x}, id="a number and its digits"),
    pytest.param(lambda x, y: {"a_0": y, "a": [x]}, id="a list's name"),
    pytest.param(lambda x, y: Pair(x, y), id="a dataclass"),
    pytest.param(lambda x, y: (x, 3, 0.5, True, None, y), id="numbers and nothing"),
]


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_is_compared(form):
    assert compared(form, form).passed
    result = compared(form, lambda x, y: form(x, 1.5 * y))
    assert any(run.verdict is Verdict.DIFFERENT for run in result.runs), result.reasons


def test_numbers_of_python_are_compared():
    result = compared(lambda x, y: (y, 3), lambda x, y: (y, 4))
    assert "4 where the truth is 3" in result.reasons[0]


def test_a_dict_is_paired_by_its_keys():
    result = compared(lambda x, y: {"a": x, "b": y}, lambda x, y: {"b": y, "a": x})
    assert result.passed
    assert not result.assumptions


def test_other_places_in_a_tuple_are_told():
    (assumption,) = compared(lambda x, y: (None, y), lambda x, y: (y, None)).assumptions
    assert "paired by position" in assumption


def test_outputs_that_come_and_go():
    def some(x: Tensor, y: Tensor) -> list[Tensor]:
        return [y] * len(x)

    result = compared(some, some)
    assert result.verdict is Verdict.UNVERIFIED
    assert "Gives gives other outputs for random/8 than for sample/0" in result.reasons[0]
    result = compared(lambda x, y: [y, y], some)
    assert result.verdict is Verdict.DIFFERENT
    assert "which the reference doesn't" in result.reasons[0]


def test_integers_beyond_what_a_float_holds():
    result = compared(lambda x, y: x.long() + 2**60, lambda x, y: x.long() + 2**60 + 1)
    assert result.verdict is Verdict.DIFFERENT
    assert "1152921504606846978 where the truth is 1152921504606846977" in result.reasons[0]
