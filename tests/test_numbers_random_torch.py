"""Folding costs no accuracy on random networks: their error to the float64 truth beside the unfolded networks' own.

Statistics are those of random inputs, as training leaves them. A network by itself has few numbers and scatters widely;
the promise is of the median over networks and inputs.
"""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_module import fold_module
from bnfold.errors import BnfoldError
from tests.accuracy_torch import ALLOWED, INPUTS, error, measuring
from tests.random_modules_torch import Network, grown

SEEDS = {torch.float32: 100, torch.float16: 200, torch.bfloat16: 200}
SANE = 0.05  # of its output, which a network's own error stays below; above that it amplifies any rounding


def calibrated(seed: int) -> tuple[Network, Tensor]:
    """A random network with the statistics of random inputs, of a large batch where it takes one; and an example."""
    network, example = grown(seed)
    with torch.no_grad(), measuring():
        try:
            network(torch.randn(64, *example.shape[1:]))
        except (RuntimeError, ValueError):
            network(torch.randn_like(example))
    return network, example


def ratios(seed: int, dtype: torch.dtype) -> list[float]:
    """The folded network's error over its own, by input; none where nothing folds, or nothing can be told.

    Where both are the same to the last bit, the outputs don't depend on what is folded.
    """
    network, example = calibrated(seed)
    network, example = network.to(dtype), example.to(dtype)
    exact = copy.deepcopy(network).double()
    found = []
    with torch.no_grad():
        try:
            network(example)
        except RuntimeError:  # an operator that has no kernel in half
            return []
        try:
            result = fold_module(network, (example,))
        except BnfoldError:  # what can't be verified isn't given
            return []
        for _ in range(INPUTS if result.plan.folded else 0):
            x = torch.randn(example.shape).to(dtype)
            truth = exact(x.double())
            own, size = error(network(x), truth), error(truth, pytree.tree_map(torch.zeros_like, truth))
            after = error(result.model(x), truth)
            if 0 < own < SANE * size and after != own:
                found.append(after / own)
    return found


def median(dtype: torch.dtype, seeds: int) -> float:
    each = [ratios(seed, dtype) for seed in range(seeds)]
    assert sum(map(bool, each)) > seeds / 6
    return float(np.median([one for found in each for one in found]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_folding_costs_no_accuracy_in_half(dtype: torch.dtype) -> None:
    assert median(dtype, 40) <= ALLOWED[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
def test_folding_costs_no_accuracy_on_many(dtype: torch.dtype) -> None:
    assert median(dtype, SEEDS[dtype]) <= ALLOWED[dtype]
