"""PyTorch patterns: layers that are linear at some of their ends only, and operators without a bias."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pattern_suite.torch_building import Model, Net, case, rows

PARTIAL = "recurrent and bilinear layers, no bias"


def steps(layer: Callable[[], nn.RNNBase], width: int) -> Callable[[], Model]:
    """bn over the features of (N, C, L), the layer over L, linear."""

    def build() -> Model:
        def run(m: Any, x: Tensor) -> Tensor:
            return m.fc(m.layer(m.bn(x).transpose(1, 2))[0])

        return Net(run, bn=nn.BatchNorm1d(6), layer=layer(), fc=nn.Linear(width, 3)), (rows(4, 6, 5),)

    return build


INSIDE = "what is left is a part of the layer"  # a sum with its own bias, as operators are counted

case(PARTIAL, "bn, LSTM, linear", least=1, note=INSIDE)(steps(lambda: nn.LSTM(6, 4, batch_first=True), 4))
case(PARTIAL, "bn, LSTM both ways, linear", least=1, note=INSIDE)(
    steps(lambda: nn.LSTM(6, 4, batch_first=True, bidirectional=True), 8)
)
case(PARTIAL, "bn, RNN, linear", least=2, note=INSIDE)(steps(lambda: nn.RNN(6, 4, batch_first=True), 4))
case(PARTIAL, "bn, LSTM without biases, linear", least=2, note="a shift wants a bias")(
    steps(lambda: nn.LSTM(6, 4, batch_first=True, bias=False), 4)
)


@case(PARTIAL, "bn, GRUCell", least=1, note=INSIDE)
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.cell(m.bn(x))

    return Net(run, bn=nn.BatchNorm1d(6), cell=nn.GRUCell(6, 4)), (rows(4, 6),)


@case(PARTIAL, "LSTM, bn, linear", least=1, note=INSIDE)
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.fc(m.bn(m.layer(x)[0].transpose(1, 2)).transpose(1, 2))

    layer = nn.LSTM(6, 4, batch_first=True)
    return Net(run, layer=layer, bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 3)), (rows(4, 5, 6),)


@case(PARTIAL, "GRU, bn", least=3, note="the layer reads its own output again")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.bn(m.layer(x)[0].transpose(1, 2))

    return Net(run, layer=nn.GRU(6, 4, batch_first=True), bn=nn.BatchNorm1d(4)), (rows(4, 5, 6),)


@case(PARTIAL, "bilinear, bn, relu", least=1, note=INSIDE)
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn(m.layer(x, x.flip(1))))

    return Net(run, layer=nn.Bilinear(6, 6, 4), bn=nn.BatchNorm1d(4)), (rows(4, 6),)


@case(PARTIAL, "bn, bilinear", least=2, note="a shift of one side multiplies the other")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.layer(m.bn(x), x.flip(1))

    return Net(run, bn=nn.BatchNorm1d(6), layer=nn.Bilinear(6, 6, 4)), (rows(4, 6),)


@case(PARTIAL, "linear over L, bn of one channel, relu")
def _() -> Model:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(1), nn.ReLU()), (rows(4, 1, 6),)


@case(PARTIAL, "bn, einsum with a parameter, linear", note="linear takes what the einsum makes of the shift")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.fc(torch.einsum("ncl,cd->nld", m.bn(x), m.weight))

    weight = nn.Parameter(torch.randn(6, 4))
    return Net(run, bn=nn.BatchNorm1d(6), weight=weight, fc=nn.Linear(4, 3)), (rows(4, 6, 5),)


@case(PARTIAL, "bn, product with a parameter, relu", least=1, note="a shift wants a bias; an add would cost as much")
def _() -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.bn(x).transpose(1, 2) @ m.weight)

    return Net(run, bn=nn.BatchNorm1d(6), weight=nn.Parameter(torch.randn(6, 4))), (rows(4, 6, 5),)
