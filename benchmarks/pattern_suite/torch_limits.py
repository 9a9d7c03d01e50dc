"""PyTorch patterns where a fold is wrong, or where the code around the layers or the numbers are in its way."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from pattern_suite.torch_building import Model, Net, case, image

STAYS = "what a fold would change"
WEIGHTS = "weights that are computed"
NUMBERS = "numbers"


class Stubborn(nn.BatchNorm2d):
    """A BatchNorm that stays in training mode, whatever is asked."""

    def train(self, mode: bool = True) -> "Stubborn":
        """Train, always."""
        super().train(True)
        return self


@case(STAYS, "bn in training mode", least=1, note="normalises by its input")
def _() -> Model:
    return nn.Sequential(nn.Conv2d(3, 5, 3), Stubborn(5), nn.ReLU()), (image(),)


@case(STAYS, "bn without running statistics", least=1, note="normalises by its input")
def _() -> Model:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False), nn.ReLU()), (image(),)


@case(STAYS, "forward hook on the conv that changes its output", least=1, note="the hook bends at zero")
def _() -> Model:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    net[0].register_forward_hook(lambda module, inputs, output: output.abs())
    return net, (image(),)


@case(STAYS, "forward hook on the bn that changes its output")
def _() -> Model:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    net[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    return net, (image(),)


@case(STAYS, "bn alone", least=1, note="no layer")
def _() -> Model:
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), (image(),)


@case(STAYS, "a forward that asks for bn.weight", note="reads what the fold takes away")
def _() -> Model:
    net = Net(lambda m, x: m.bn(m.conv(x)) * m.bn.weight.sum(), conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5))
    return net, (image(),)


@case(STAYS, "a forward with an `if` on the data beside it", note="no graph can be traced")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.bn(m.conv(x))
        return x if x.sum() > 0 else -x

    return Net(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019): the kernel is normalised in the forward."""

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, then convolve."""
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias)


@case(WEIGHTS, "conv subclass with weight standardisation, bn")
def _() -> Model:
    return nn.Sequential(Standardised(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()), (image(),)


def wrapped(wrap: Callable[[nn.Module], Any]) -> Callable[[], Model]:
    """Conv with a computed weight, bn, relu."""

    def build() -> Model:
        conv = nn.Conv2d(3, 5, 3)
        wrap(conv)
        return nn.Sequential(conv, nn.BatchNorm2d(5), nn.ReLU()), (image(),)

    return build


def pruned(conv: nn.Module) -> None:
    """Half of the weights are masked."""
    prune.l1_unstructured(conv, "weight", 0.5)


case(WEIGHTS, "conv with weight_norm as a parametrization, bn")(wrapped(parametrizations.weight_norm))
case(WEIGHTS, "conv with spectral_norm as a parametrization, bn")(wrapped(parametrizations.spectral_norm))
case(WEIGHTS, "conv with weight_norm as a hook, bn")(wrapped(weight_norm))
case(WEIGHTS, "conv with spectral_norm as a hook, bn")(wrapped(spectral_norm))
case(WEIGHTS, "pruned conv, bn")(wrapped(pruned))


def plain(dtype: torch.dtype = torch.float32, size: float = 1.0) -> Callable[[], Model]:
    """Conv, bn; the input in another dtype and size."""
    return lambda: (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), ((size * image()).to(dtype),))


def with_small_eps(net: Any) -> None:
    """Eps is 0 in float16, and so is a variance."""
    net[1].eps = 1e-8
    net.half()
    net[1].running_var[2] = 0


def with_large_scale(net: Any) -> None:
    """s is about 1e5, which W * s can't hold."""
    net[1].weight.mul_(300)
    net[1].running_var.zero_()
    net[1].running_mean.zero_()
    net[0].bias.zero_()
    net.half()


def with_dead_channels(net: Any) -> None:
    """Gamma is 0 in two channels."""
    net[1].weight[1::2] = 0


case(
    NUMBERS,
    "float16 with eps 1e-8 and a variance of 0",
    note="s is 1e4 times gamma; eps is 0 in float16",
    then=with_small_eps,
)(plain(torch.float16, 1e-3))
case(NUMBERS, "bfloat16", then=lambda net: net.bfloat16())(plain(torch.bfloat16))
case(NUMBERS, "conv in bfloat16, bn in float32", then=lambda net: net[0].bfloat16())(plain(torch.bfloat16))
case(NUMBERS, "gamma == 0 in two channels", then=with_dead_channels)(plain())
case(NUMBERS, "float16 weights that a fold would overflow", least=1, note="s is 1e5", then=with_large_scale)(
    plain(torch.float16, 1e-3)
)
