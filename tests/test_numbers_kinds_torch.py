"""Folding costs no accuracy in half where it is hard: what a layer's rounding leaves isn't averaged away further on.

Short rows (depthwise kernels, a few channels), inputs of which nothing is known (the model's own, a buffer that slices
are written to), channels that are shuffled, gates, activations written out, and a mean over the image at the end.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnfold.adapters.torch_module import fold_module
from tests.accuracy_torch import ALLOWED, INPUTS, error, measuring


def conv_norm(channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class Kind(nn.Module):
    """A stem, what the kind is about, and a classifier on the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classifier = conv_norm(3, 16, 3, 2), nn.Linear(16, 7)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classifier(self.body(F.relu(self.stem(x))).mean((2, 3)))
        return result


class Shuffled(Kind):
    """Two units as ShuffleNet V2 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.ModuleList([conv_norm(8, 8, 1), conv_norm(8, 8, 3, groups=8), conv_norm(8, 8, 1)]) for _ in range(3)
        )

    def body(self, x: Tensor) -> Tensor:
        for unit in self.units:
            first, depthwise, last = unit  # type: ignore[misc]
            left, right = x.chunk(2, 1)
            joined = torch.cat([left, F.relu(last(depthwise(F.relu(first(right)))))], 1)
            n, channels, height, width = joined.shape
            x = joined.view(n, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(joined.shape)
        return x


class Gated(Kind):
    """Two blocks as EfficientNet has them: squeeze and excitation between a depthwise and a pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList([conv_norm(16, 32, 1), conv_norm(32, 32, 3, groups=32), conv_norm(32, 16, 1)])
            for _ in range(2)
        )
        self.squeeze, self.excite = nn.Conv2d(32, 4, 1), nn.Conv2d(4, 32, 1)

    def body(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            expand, depthwise, project = block  # type: ignore[misc]
            y = F.silu(depthwise(F.silu(expand(x))))
            x = x + project(y * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))))
        return x


class Branched(Kind):
    """Branches as Inception has them, and a BatchNorm on what they are joined to."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.before, self.wide, self.pooled = (
            conv_norm(16, 4, 1),
            conv_norm(16, 4, 1),
            conv_norm(4, 6, 5),
            conv_norm(16, 6, 1),
        )
        self.norm = nn.BatchNorm2d(16)

    def body(self, x: Tensor) -> Tensor:
        pooled = self.pooled(F.avg_pool2d(x, 3, 1, 1))
        parts = [F.relu(self.point(x)), F.relu(self.wide(F.relu(self.before(x)))), pooled]
        result: Tensor = self.norm(torch.cat(parts, 1))
        return result


class Moved(Kind):
    """Slices of a tensor written to places of a new one, as a temporal shift does it; Hardswish written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_norm(16, 16), conv_norm(16, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        moved = torch.zeros_like(x)
        moved[:, 4:] = x[:, :-4]
        y = self.first(moved)
        result: Tensor = x + self.second(y * F.relu6(y + 3) / 6)
        return result


class Mixed(Kind):
    """A ConvMixer: BatchNorms behind GELU, of which some stay, in a new frame, and their constants are rounded anew."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(5))
        self.depthwise = nn.ModuleList(nn.Conv2d(16, 16, 5, padding=2, groups=16) for _ in range(2))
        self.pointwise = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))

    def body(self, x: Tensor) -> Tensor:
        first, *norms = self.norms
        x = first(F.gelu(x))
        for depthwise, pointwise, inner, outer in zip(
            self.depthwise, self.pointwise, norms[::2], norms[1::2], strict=True
        ):
            x = outer(F.gelu(pointwise(x + inner(F.gelu(depthwise(x))))))
        return x


KINDS = (Shuffled, Gated, Branched, Moved, Mixed)


def median(kind: type[Kind], dtype: torch.dtype, seeds: int) -> float:
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = kind().eval()
        with torch.no_grad(), measuring():
            for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.5)
            network(torch.randn(8, 3, 32, 32))
        network = network.to(dtype)
        exact = copy.deepcopy(network).double()
        folded = fold_module(network, (torch.randn(2, 3, 32, 32).to(dtype),)).model
        with torch.no_grad():
            for _ in range(INPUTS):
                x = torch.randn(2, 3, 32, 32).to(dtype)
                truth = exact(x.double())
                found.append(error(folded(x), truth) / error(network(x), truth))
    return float(np.median(found))


@pytest.mark.parametrize("kind", KINDS)
def test_folding_costs_no_accuracy_where_it_is_hard(kind: type[Kind]) -> None:
    assert median(kind, torch.bfloat16, 4) <= ALLOWED[torch.bfloat16]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_folding_costs_no_accuracy_where_it_is_hard_over_many(kind: type[Kind], dtype: torch.dtype) -> None:
    assert median(kind, dtype, 24) <= ALLOWED[dtype]
