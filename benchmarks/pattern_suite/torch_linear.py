"""PyTorch patterns: an affine right behind a linear layer, in every form that it takes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pattern_suite.torch_building import Model, Net, case, image, rows

DIRECT = "right behind a linear layer"
FORMS = "affines in other forms"


def stacked(*parts: nn.Module) -> nn.Module:
    """One after another, then a ReLU."""
    return nn.Sequential(*parts, nn.ReLU())


@case(DIRECT, "conv1d, bn")
def _() -> Model:
    return stacked(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)), (rows(2, 3, 9),)


@case(DIRECT, "conv2d, bn")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)), (image(),)


@case(DIRECT, "conv3d, bn")
def _() -> Model:
    return stacked(nn.Conv3d(3, 5, 3), nn.BatchNorm3d(5)), (rows(2, 3, 5, 5, 5),)


@case(DIRECT, "conv2d without bias, bn")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)), (image(),)


@case(DIRECT, "conv2d with stride, dilation and groups, bn")
def _() -> Model:
    return stacked(nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2), nn.BatchNorm2d(6)), (image(4),)


@case(DIRECT, "depthwise conv2d, bn")
def _() -> Model:
    return stacked(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (image(4),)


@case(DIRECT, "conv2d padded by reflection, bn")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(5)), (image(),)


@case(DIRECT, "transposed conv, bn")
def _() -> Model:
    return stacked(nn.ConvTranspose2d(3, 5, 3, stride=2), nn.BatchNorm2d(5)), (image(),)


@case(DIRECT, "transposed conv with in == out, bn")
def _() -> Model:
    return stacked(nn.ConvTranspose2d(4, 4, 3, stride=2), nn.BatchNorm2d(4)), (image(4),)


@case(DIRECT, "transposed conv with groups, bn")
def _() -> Model:
    return stacked(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (image(4),)


@case(DIRECT, "transposed conv with groups and in == out, bn")
def _() -> Model:
    return stacked(nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)), (image(4),)


@case(DIRECT, "depthwise transposed conv, bn")
def _() -> Model:
    return stacked(nn.ConvTranspose2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)), (image(4),)


@case(DIRECT, "linear, bn on (N, C)")
def _() -> Model:
    return stacked(nn.Linear(6, 5), nn.BatchNorm1d(5)), (rows(4, 6),)


@case(DIRECT, "linear over L, bn over C, on (N, C, L), L == C", least=1, note="different axes: no fold is right")
def _() -> Model:
    return stacked(nn.Linear(5, 5), nn.BatchNorm1d(5)), (rows(2, 5, 5),)


@case(DIRECT, "linear over L, bn over C, on (N, C, L), L != C", least=1, note="different axes: no fold is right")
def _() -> Model:
    return stacked(nn.Linear(6, 4), nn.BatchNorm1d(5)), (rows(2, 5, 6),)


@case(DIRECT, "linear, transpose to (N, C, L), bn")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.bn(m.fc(x).transpose(1, 2))), fc=nn.Linear(6, 5), bn=nn.BatchNorm1d(5))
    return net, (rows(2, 5, 6),)


@case(DIRECT, "linear, flatten of tokens, bn")
def _() -> Model:
    net = Net(lambda m, x: m.bn(m.fc(x).flatten(0, 1)).reshape_as(x), fc=nn.Linear(6, 6), bn=nn.BatchNorm1d(6))
    return net, (rows(2, 5, 6),)


@case(DIRECT, "conv, bn, bn")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5)), (image(),)


@case(DIRECT, "conv, dropout, bn")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3), nn.Dropout2d(), nn.BatchNorm2d(5)), (image(),)


@case(DIRECT, "bn, conv, bn")
def _() -> Model:
    return stacked(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), (image(),)


@case(FORMS, "conv, SyncBatchNorm")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3), nn.SyncBatchNorm(5)), (image(),)


@case(FORMS, "conv, bn without gamma and beta")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False)), (image(),)


@case(FORMS, "linear, bn without gamma and beta")
def _() -> Model:
    return stacked(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False)), (rows(4, 6),)


class NormAct(nn.BatchNorm2d):
    """A BatchNorm with an activation in it, as timm's BatchNormAct2d."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, then bend."""
        return F.leaky_relu(super().forward(x), 0.1)


@case(FORMS, "conv, bn subclass that carries an activation")
def _() -> Model:
    return nn.Sequential(nn.Conv2d(3, 5, 3), NormAct(5), nn.Conv2d(5, 2, 1)), (image(),)


def functional(m: Any, x: Tensor) -> Tensor:
    """F.batch_norm with buffers."""
    return F.relu(
        F.batch_norm(m.conv(x), m.bn.running_mean, m.bn.running_var, m.bn.weight, m.bn.bias, False, 0.1, 1e-3)
    )


@case(FORMS, "conv, functional batch_norm")
def _() -> Model:
    return Net(functional, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


class FrozenBatchNorm2d(nn.Module):
    """As in torchvision and detectron2: buffers and arithmetic."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x * scale + shift."""
        w, b = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        var, mean = self.running_var.reshape(1, -1, 1, 1), self.running_mean.reshape(1, -1, 1, 1)
        scale = w * (var + 1e-5).rsqrt()
        return x * scale + (b - mean * scale)


@case(FORMS, "conv, FrozenBatchNorm2d")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3), FrozenBatchNorm2d(5)), (image(),)


def by_hand(m: Any, x: Tensor) -> Tensor:
    """Sub, div, mul, add, in the forward itself."""
    parts = (part[None, :, None, None] for part in (m.bn.running_mean, m.bn.running_var, m.bn.weight, m.bn.bias))
    mean, var, weight, bias = parts
    return F.relu(weight * ((m.conv(x) - mean) / torch.sqrt(var + 1e-5)) + bias)


@case(FORMS, "conv, bn as arithmetic in the forward")
def _() -> Model:
    return Net(by_hand, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


@case(FORMS, "conv, LayerScale (a product with a parameter)")
def _() -> Model:
    net = Net(
        lambda m, x: F.relu(m.conv(x) * m.gamma), conv=nn.Conv2d(3, 5, 3), gamma=nn.Parameter(torch.ones(5, 1, 1))
    )
    return net, (image(),)


@case(FORMS, "linear, LayerScale, residual")
def _() -> Model:
    net = Net(lambda m, x: x + m.fc(x) * m.gamma, fc=nn.Linear(6, 6), gamma=nn.Parameter(torch.ones(6)))
    return net, (rows(2, 5, 6),)


@case(FORMS, "constant minus conv")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.c - m.conv(x)), conv=nn.Conv2d(3, 5, 3), c=nn.Parameter(torch.ones(5, 1, 1)))
    return net, (image(),)


@case(FORMS, "torch.add(conv, constant, alpha=2)")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(torch.add(m.conv(x), m.c, alpha=2))

    return Net(run, conv=nn.Conv2d(3, 5, 3), c=nn.Parameter(torch.ones(1, 5, 1, 1))), (image(),)


@case(FORMS, "torch.add(constant, conv, alpha=2)")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(torch.add(m.c, m.conv(x), alpha=2))

    return Net(run, conv=nn.Conv2d(3, 5, 3), c=nn.Parameter(torch.ones(1, 5, 1, 1))), (image(),)


@case(FORMS, "constant divided by conv", least=1, note="no affine of the conv")
def _() -> Model:
    net = Net(lambda m, x: m.c / m.conv(x), conv=nn.Conv2d(3, 5, 3), c=nn.Parameter(torch.ones(5, 1, 1)))
    return net, (image(),)


@case(FORMS, "conv times a map of the pixels", least=1, note="not one factor a channel")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.conv(x) * m.c), conv=nn.Conv2d(3, 7, 3), c=nn.Parameter(torch.ones(1, 1, 7, 7)))
    return net, (image(),)


@case(FORMS, "conv, instance norm with running statistics")
def _() -> Model:
    return stacked(nn.Conv2d(3, 5, 3), nn.InstanceNorm2d(5, affine=True, track_running_stats=True)), (image(),)


@case(FORMS, "input (x - mean) / std, conv")
def _() -> Model:
    parts = {"mean": torch.randn(3, 1, 1), "std": 0.5 + torch.rand(3, 1, 1)}
    return Net(lambda m, x: F.relu(m.conv((x - m.mean) / m.std)), conv=nn.Conv2d(3, 5, 3), **parts), (image(),)
