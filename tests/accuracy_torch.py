"""What tests of accuracy share: statistics that are measured, errors to the float64 truth, and what is allowed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

ALLOWED = {torch.float32: 1.05, torch.float16: 1.3, torch.bfloat16: 1.3}  # times the unfolded network's own error
INPUTS = 4


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


def error(outputs: Any, truth: Any) -> float:
    pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(truth), strict=True)
    return float(sum((one.double() - true).square().sum() for one, true in pairs)) ** 0.5
