"""Folding costs no accuracy on random networks: their error to the float64 truth beside the unfolded networks' own.

Statistics are those of random inputs, as training leaves them. A network by itself has few numbers and scatters widely;
the promise is of the median over networks and inputs.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_module import fold_module
from bnfold.errors import BnfoldError
from tests.random_modules_torch import Network, grown

ALLOWED = {torch.float32: 1.05, torch.float16: 1.3, torch.bfloat16: 1.3}
SEEDS = {torch.float32: 100, torch.float16: 200, torch.bfloat16: 200}
INPUTS = 4
SANE = 0.05  # of its output, which a network's own error stays below; above that it amplifies any rounding


@contextmanager
def measuring() -> Iterator[None]:
    """Let every normalisation take its statistics from what it reads, and write them to its buffers."""

    def measured(normalise: Any) -> Any:
        def call(x: Tensor, mean: Tensor | None, var: Tensor | None, *arguments: Any, **options: Any) -> Tensor:
            if mean is not None and var is not None:
                axes = [axis for axis in range(x.dim()) if axis != 1]
                mean.copy_(x.mean(axes))
                var.copy_(x.var(axes, unbiased=False) + 1e-3)
            result: Tensor = normalise(x, mean, var, *arguments, **options)
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("batch_norm", "instance_norm"):
            patch.setattr(F, name, measured(getattr(F, name)))
        yield


def calibrated(seed: int) -> tuple[Network, Tensor]:
    """A random network with the statistics of random inputs, of a large batch where it takes one; and an example."""
    network, example = grown(seed)
    with torch.no_grad(), measuring():
        try:
            network(torch.randn(64, *example.shape[1:]))
        except (RuntimeError, ValueError):
            network(torch.randn_like(example))
    return network, example


def error(outputs: Any, truth: Any) -> float:
    pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(truth), strict=True)
    return float(sum((one.double() - true).square().sum() for one, true in pairs)) ** 0.5


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
