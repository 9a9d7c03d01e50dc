"""PyTorch patterns: whole blocks, and layers with several consumers or uses."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pattern_suite.torch_building import Model, Net, Net2, case, image, rows

SHARED = "several consumers, shared layers"
BLOCKS = "blocks"


def conv_norm(m: Any, x: Tensor, index: str = "") -> Tensor:
    """Conv and bn by number."""
    return getattr(m, f"bn{index}")(getattr(m, f"conv{index}")(x))


def two(ins: int = 3, outs: int = 5, padding: int = 1) -> dict[str, nn.Module]:
    """conv1, bn1, conv2, bn2, where the second has as many inputs as outputs."""
    return {
        "conv1": nn.Conv2d(ins, outs, 3, padding=padding),
        "bn1": nn.BatchNorm2d(outs),
        "conv2": nn.Conv2d(outs, outs, 3, padding=padding),
        "bn2": nn.BatchNorm2d(outs),
    }


@case(SHARED, "conv whose other consumer is not linear", least=1, note="the sum wants one scale")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x)
        return m.bn(x) + F.relu(x)

    return Net(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


@case(SHARED, "conv that feeds a bn and another conv")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x)
        return m.head(m.bn(x)), m.tail(x)

    parts = {"head": nn.Conv2d(5, 4, 1), "tail": nn.Conv2d(5, 4, 1)}
    return Net(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5), **parts), (image(),)


@case(SHARED, "conv with two bns behind it", least=1, note="each wants other numbers of the conv")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x)
        return m.bn1(x), m.bn2(x)

    return Net(run, conv=nn.Conv2d(3, 5, 3), bn1=nn.BatchNorm2d(5), bn2=nn.BatchNorm2d(5)), (image(),)


@case(SHARED, "conv that is an output too", least=1, note="whoever reads the output wants these numbers")
def _() -> Model:
    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = m.conv(x)
        return x, F.relu(m.bn(x))

    return Net(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


@case(SHARED, "bn that is an output too")
def _() -> Model:
    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = m.bn(m.conv(x))
        return x, F.relu(x)

    return Net(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


@case(SHARED, "conv called twice, bn behind one call", note="only with a copy of the weight")
def _() -> Model:
    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(m.bn(m.conv(x))) + m.conv(y)

    return Net2(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(), -image())


@case(SHARED, "conv and bn called twice")
def _() -> Model:
    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(m.bn(m.conv(x))) * m.bn(m.conv(y))

    return Net2(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(), -image())


@case(SHARED, "one bn behind two convs")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn(m.one(x))) * torch.sigmoid(m.bn(m.two(x)))

    return Net(run, one=nn.Conv2d(3, 5, 3), two=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


@case(SHARED, "two convs that share a weight, each with a bn of its own", note="only with a copy of the weight")
def _() -> Model:
    parts = two(4, 4)
    parts["conv2"].weight = parts["conv1"].weight
    return Net(lambda m, x: F.relu(conv_norm(m, F.relu(conv_norm(m, x, "1")), "2")), **parts), (image(4),)


@case(SHARED, "weight of a conv is read in the forward", note="only with a copy of the weight")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.bn(m.conv(x))) * m.conv.weight.sum(), conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5))
    return net, (image(),)


@case(BLOCKS, "residual block, bn behind its convs")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(conv_norm(m, F.relu(conv_norm(m, x, "1")), "2") + x)

    return Net(run, **two(4, 4)), (image(4),)


@case(BLOCKS, "residual block with a strided shortcut")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(conv_norm(m, F.relu(conv_norm(m, x, "1")), "2") + conv_norm(m, x))

    return Net(run, **two(3, 5), conv=nn.Conv2d(3, 5, 1), bn=nn.BatchNorm2d(5)), (image(),)


def trunk(blocks: int, padding: int) -> Callable[[], Model]:
    """A pre-activation trunk: x + conv(relu(bn(x)))."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        for index in range(blocks):
            x = x + getattr(m, f"conv{index}")(F.relu(getattr(m, f"bn{index}")(x)))
        return m.head(x)

    def build() -> Model:
        parts: dict[str, nn.Module] = {"stem": nn.Conv2d(3, 4, 3), "head": nn.Conv2d(4, 2, 1)}
        for index in range(blocks):
            parts |= {f"bn{index}": nn.BatchNorm2d(4), f"conv{index}": nn.Conv2d(4, 4, 3, padding=padding)}
        return Net(run, **parts), (image(),)

    return build


case(BLOCKS, "pre-activation trunk of 1 block, gamma > 0", positive=True)(trunk(1, 1))
case(BLOCKS, "pre-activation trunk of 3 blocks, gamma > 0", positive=True)(trunk(3, 1))
case(BLOCKS, "pre-activation trunk of 1 block, gamma of both signs", note="the trunk changes sign channel by channel")(
    trunk(1, 1)
)


@case(BLOCKS, "pre-activation blocks, bn behind the inner convs, gamma > 0", positive=True)
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        for n in ("a", "b"):
            inner = getattr(m, f"conv1{n}")(F.relu(getattr(m, f"bn1{n}")(x)))
            x = x + getattr(m, f"conv2{n}")(F.relu(getattr(m, f"bn2{n}")(inner)))
        return x

    parts: dict[str, nn.Module] = {"stem": nn.Conv2d(3, 4, 3)}
    for n in ("a", "b"):
        parts |= {name + n: part for name, part in two(4, 4).items()}
    return Net(run, **parts), (image(),)


@case(BLOCKS, "densely connected layers, gamma > 0", least=1, positive=True, note="bns that want different shifts")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = torch.cat([x, m.conv1(F.relu(m.bn1(x)))], 1)
        return m.conv2(F.relu(m.bn2(x)))

    parts = {"conv1": nn.Conv2d(4, 3, 1), "conv2": nn.Conv2d(7, 3, 1)}
    norms = {"bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(7)}
    return Net(run, stem=nn.Conv2d(3, 4, 3), **parts, **norms), (image(),)


@case(BLOCKS, "RepVGG: conv3x3 + bn, conv1x1 + bn and bn, added")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn3(m.conv3(x)) + m.bn1(m.conv1(x)) + m.bn0(x))

    convs = {"conv3": nn.Conv2d(4, 4, 3, padding=1, bias=False), "conv1": nn.Conv2d(4, 4, 1, bias=False)}
    return Net(run, **convs, **{f"bn{n}": nn.BatchNorm2d(4) for n in (0, 1, 3)}), (image(4),)


@case(BLOCKS, "bn(x) + conv(x)")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.bn(x) + m.conv(x)), conv=nn.Conv2d(4, 4, 3, padding=1), bn=nn.BatchNorm2d(4))
    return net, (image(4),)


@case(BLOCKS, "bn(x + conv(x))")
def _() -> Model:
    net = Net(lambda m, x: F.relu(m.bn(x + m.conv(x))), conv=nn.Conv2d(4, 4, 3, padding=1), bn=nn.BatchNorm2d(4))
    return net, (image(4),)


@case(BLOCKS, "squeeze and excitation behind a bn")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.bn(m.conv(x))
        return x * torch.sigmoid(m.fc(x.mean((2, 3))))[:, :, None, None]

    return Net(run, conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5), fc=nn.Linear(5, 5)), (image(),)


@case(BLOCKS, "bn behind a gate", least=1, note="s could go, t can't")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn(m.one(x) * torch.sigmoid(m.two(x))))

    return Net(run, one=nn.Conv2d(3, 5, 3), two=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(5)), (image(),)


@case(BLOCKS, "inverted residual: 1x1, depthwise, 1x1, relu6")
def _() -> Model:
    parts: list[nn.Module] = []
    for ins, outs, kernel, groups in ((4, 8, 1, 1), (8, 8, 3, 8), (8, 4, 1, 1)):
        parts += [nn.Conv2d(ins, outs, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outs)]
        parts += [nn.ReLU6()]
    return Net(lambda m, x: x + m.body(x), body=nn.Sequential(*parts[:-1])), (image(4),)


@case(BLOCKS, "linears with bn1d, an MLP")
def _() -> Model:
    body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4))
    return body, (rows(4, 6),)
