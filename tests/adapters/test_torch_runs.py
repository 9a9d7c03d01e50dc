"""Outputs of few numbers: the own error of a module is taken from several runs, and faults are found all the same."""

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters import torch_truth
from bnfold.adapters.torch_capture import arguments
from bnfold.adapters.torch_runs import ENOUGH, MORE, enough, require_telling, run, standard
from bnfold.adapters.torch_truth import Own, require_same
from bnfold.errors import DifferentError, UnverifiedError


class Counted(nn.Linear):
    """Counts its runs; takes no numbers below `least`."""

    def __init__(self, outputs: int, least: float = -1e9) -> None:
        super().__init__(32, outputs)
        self.least, self.runs = least, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        if x.max() < self.least:
            raise ValueError("too faint")
        return torch.sin(super().forward(x))


def network(outputs: int, least: float = -1e9) -> Counted:
    torch.manual_seed(0)
    return Counted(outputs, least).eval()


@pytest.mark.parametrize(("outputs", "most", "runs"), [(1, MORE, ENOUGH), (1, 4, 5), (5, MORE, 4), (16, MORE, 1)])
def test_a_module_of_few_outputs_runs_more_often(outputs, most, runs):
    module = network(outputs)
    found = enough(module, [run(module, arguments(torch.ones(1, 32)))], most)
    assert len(found) == runs
    assert standard(found)[0].numbers == runs * outputs
    assert len({float(one.reference[0][0, 0]) for one in found}) == runs


def test_inputs_that_it_does_not_take_end_the_search():
    module = network(1, least=0.95)
    assert len(enough(module, [run(module, arguments(torch.ones(1, 32)))], MORE)) == 4


def test_outputs_without_a_number_prove_nothing():
    with pytest.raises(UnverifiedError, match="every output is empty; give inputs of at least one row"):
        bnfold.fold(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(), torch.ones(0, 3))


def test_whole_numbers_are_not_made_fainter():
    module = nn.Embedding(4, 1).eval()
    assert len(enough(module, [run(module, arguments(torch.zeros(1, dtype=torch.int64)))], MORE)) == 1


@pytest.mark.parametrize(("error", "passes"), [(1e-6, True), (4e-6, True), (1e-5, False)])
def test_a_reference_that_is_right_by_luck_is_no_standard(error, passes):
    """One number, right to the last digit; other runs err by 1e-6."""
    truth = torch_truth.Truth([torch.tensor([1.0], dtype=torch.float64)], [1.0])
    reference, folded = [torch.tensor([1.0])], [torch.tensor([1.0 + error])]
    own = [Own(1e-6, 16)]
    with pytest.raises(DifferentError):
        require_same(truth, reference, [torch.tensor([1.0 + 1e-5])], "it")
    if passes:
        require_same(truth, reference, folded, "it", own=own)
        return
    with pytest.raises(DifferentError, match="it: output 0: error"):
        require_same(truth, reference, folded, "it", own=own)


def test_own_errors_are_in_units_of_the_scale_and_skip_what_is_not_finite():
    wide = torch.tensor([2.0, 4.0, float("nan")], dtype=torch.float64)
    truth = torch_truth.Truth([wide, torch.tensor([3])], [2.0, 3.0])
    (first, second) = torch_truth.own_errors([(truth, [torch.tensor([2.5, 4.0, 1.0]), torch.tensor([3])])] * 2)
    assert first.numbers == 4
    assert first.error == pytest.approx(0.25 / 2**0.5)
    assert second.numbers == 0


def test_inputs_that_change_no_output_tell_no_models_apart():
    with pytest.raises(UnverifiedError, match="it: no output changes with the input"):
        require_telling(Lookup(all_shut=True), arguments(torch.zeros(2, dtype=torch.int64)), "it")
    require_telling(Lookup(all_shut=False), arguments(torch.zeros(2, dtype=torch.int64)), "it")
    with pytest.raises(UnverifiedError, match="it: takes no input"):
        require_telling(Lookup(all_shut=False), arguments(()), "it")


@pytest.mark.parametrize("threshold", [-1.0, 1.0])
def test_an_output_that_few_inputs_change_tells_enough(threshold):
    """All ones: below or above the threshold wherever they are."""
    require_telling(nn.Threshold(threshold, 0.5), arguments(torch.ones(1, 3)), "it")


def test_numbers_that_it_does_not_take_say_nothing():
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.equal(x, torch.ones_like(x)):
                raise ValueError("wanted ones")
            return x

    require_telling(Positive(), arguments(torch.ones(3)), "it")


class Lookup(nn.Module):
    """A table by indices; all_shut: the table's rows are one and the same."""

    def __init__(self, all_shut: bool) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(2, 3) if all_shut else torch.arange(6.0).reshape(2, 3))

    def forward(self, index: Tensor) -> Tensor:
        return self.table[index]
