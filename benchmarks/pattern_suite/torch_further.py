"""PyTorch patterns: affines that are not next to the layer that can take them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pattern_suite.torch_building import Model, Net, case, image, rows

BACK = "back through other operators"
FORWARD = "forward into the next layer"


def between(step: Callable[[Tensor], Tensor], channels: int = 6, outs: int = 6) -> Callable[[], Model]:
    """conv with `outs` channels, `step`, bn on `channels`, relu."""

    def build() -> Model:
        def run(m: Any, x: Tensor) -> Tensor:
            return F.relu(m.bn(step(m.conv(x))))

        return Net(run, conv=nn.Conv2d(3, outs, 3), bn=nn.BatchNorm2d(channels)), (image(size=10),)

    return build


def shuffle(x: Tensor) -> Tensor:
    """Channel shuffle with 2 groups."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


case(BACK, "conv, average pooling, bn")(between(lambda x: F.avg_pool2d(x, 2)))
case(BACK, "conv, padded average pooling without the padding in the count, bn")(
    between(lambda x: F.avg_pool2d(x, 3, padding=1, count_include_pad=False))
)
case(BACK, "conv, padded average pooling that counts zeros, bn", least=1, note="the border needs another shift")(
    between(lambda x: F.avg_pool2d(x, 3, padding=1))
)
case(BACK, "conv, max pooling, bn, gamma > 0", positive=True)(between(lambda x: F.max_pool2d(x, 2)))
case(BACK, "conv, max pooling, bn, gamma of both signs", least=1, note="a negative s makes the greatest the least")(
    between(lambda x: F.max_pool2d(x, 2))
)
case(BACK, "conv, channel shuffle, bn")(between(shuffle))
case(BACK, "conv, slice of the channels, bn")(between(lambda x: x[:, 1:5], 4))
case(BACK, "conv, crop, bn")(between(lambda x: x[:, :, 1:-1, 1:-1]))
case(BACK, "conv, pixel shuffle, bn", note="the bn's channels each gather several of the conv's")(
    between(lambda x: F.pixel_shuffle(x, 2), 2, 8)
)
case(BACK, "conv, nearest upsampling, bn")(between(lambda x: F.interpolate(x, scale_factor=2)))
case(BACK, "conv, bilinear upsampling, bn")(
    between(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
)
case(BACK, "conv, reflection padding, bn")(between(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")))
case(BACK, "conv, zero padding, bn", least=1, note="zeros become t, another number in each channel")(
    between(lambda x: F.pad(x, (1, 1, 1, 1)))
)


@case(BACK, "conv, global average pooling, flatten, bn")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn(F.adaptive_avg_pool2d(m.conv(x), 1).flatten(1)))

    return Net(run, conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm1d(6)), (image(),)


@case(BACK, "conv, mean over the pixels, bn")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.bn(m.conv(x).mean((2, 3)))), conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm1d(6))
    return net, (image(),)


@case(BACK, "linear, permute NHWC to NCHW, bn")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.bn(m.fc(x).permute(0, 3, 1, 2))), fc=nn.Linear(4, 6), bn=nn.BatchNorm2d(6))
    return net, (rows(2, 5, 5, 4),)


@case(BACK, "conv, squeeze, bn")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.bn(m.conv(x).squeeze(2))), conv=nn.Conv2d(3, 6, (1, 3)), bn=nn.BatchNorm1d(6))
    return net, (rows(2, 3, 1, 9),)


@case(BACK, "concat of two convs, bn")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn(torch.cat([m.one(x), m.two(x)], 1)))

    return Net(run, one=nn.Conv2d(3, 4, 3), two=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(9)), (image(),)


@case(BACK, "concat of a conv and the input, bn", least=1, note="nothing can take the input's part")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn(torch.cat([m.one(x), x], 1)))

    return Net(run, one=nn.Conv2d(3, 4, 3, padding=1), bn=nn.BatchNorm2d(7)), (image(),)


@case(BACK, "concat of bn and bn, each behind a conv")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(torch.cat([m.bn1(m.one(x)), m.bn2(m.two(x))], 1))

    parts = {"one": nn.Conv2d(3, 4, 3), "two": nn.Conv2d(3, 5, 3), "bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(5)}
    return Net(run, **parts), (image(),)


@case(BACK, "sum of two convs, bn")
def _() -> Model:
    net = Net(
        lambda m, x: F.relu(m.bn(m.one(x) + m.two(x))),
        one=nn.Conv2d(3, 5, 3),
        two=nn.Conv2d(3, 5, 3),
        bn=nn.BatchNorm2d(5),
    )
    return net, (image(),)


@case(BACK, "split, bn on one half")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        left, right = m.conv(x).chunk(2, 1)
        return torch.cat([F.relu(m.bn(left)), torch.sigmoid(right)], 1)

    return Net(run, conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(3)), (image(),)


case(FORWARD, "bn, conv without padding")(lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3)), (image(),)))
case(FORWARD, "bn, conv with groups, without padding")(
    lambda: (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)), (image(4),))
)
case(FORWARD, "bn, depthwise conv without padding")(
    lambda: (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4, bias=False)), (image(4),))
)
case(FORWARD, "bn, conv padded by reflection")(
    lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect")), (image(),))
)
case(FORWARD, "bn, zero-padded conv", least=1, note="the border needs another shift")(
    lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3, padding=1)), (image(),))
)
case(FORWARD, "bn with t = 0, zero-padded conv", still=True)(
    lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3, padding=1)), (image(),))
)
case(FORWARD, "bn with t = 0, transposed conv", still=True)(
    lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 5, 3)), (image(),))
)
case(FORWARD, "bn, transposed conv", least=1, note="a shift isn't spread evenly")(
    lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 5, 3)), (image(),))
)
case(FORWARD, "bn, linear on (N, C)")(lambda: (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4)), (rows(4, 6),)))
case(FORWARD, "bn over C, linear over L, L == C", least=1, note="different axes: no fold is right")(
    lambda: (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6)), (rows(4, 6, 6),))
)
case(FORWARD, "conv, relu, bn, conv without padding")(
    lambda: (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3)), (image(),))
)
case(FORWARD, "conv, gelu, bn, conv without padding")(
    lambda: (nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1)), (image(),))
)
case(FORWARD, "conv, relu, bn, zero-padded conv", least=1, note="the border needs another shift")(
    lambda: (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3, padding=1)), (image(),))
)
case(FORWARD, "bn, global average pooling, flatten, linear")(
    lambda: (
        nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)),
        (image(),),
    )
)
case(FORWARD, "bn, flatten, linear")(
    lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 81, 4)), (image(),))
)
case(FORWARD, "relu, flatten, bn over all features, linear")(
    lambda: (nn.Sequential(nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(3 * 81), nn.Linear(3 * 81, 4)), (image(),))
)


@case(FORWARD, "bn, three linears (q, k, v)")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.bn(x)
        return torch.softmax(m.q(x), -1) * m.k(x).tanh() + m.v(x)

    parts = {name: nn.Linear(6, 4) for name in "qkv"}
    return Net(run, bn=nn.BatchNorm1d(6), **parts), (rows(4, 6),)


@case(FORWARD, "bn that two convs read and a relu too", least=1, note="the relu needs the bn's own numbers")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.bn(x)
        return m.one(x) + m.two(F.relu(x))

    return Net(run, bn=nn.BatchNorm2d(3), one=nn.Conv2d(3, 4, 3), two=nn.Conv2d(3, 4, 3)), (image(),)
