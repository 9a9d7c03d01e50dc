"""Operators of ATen whose own numbers decide what a shift in front of them becomes: folded right, or not at all."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnfold.adapters.torch_program import fold_program

torch.set_num_threads(1)


class Between(nn.Module):
    """conv -> the operator -> an affine by channel -> ReLU."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), body

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.body(self.conv(x))))


def statistics(x: Tensor) -> dict[str, Tensor]:
    return {"running_mean": x.new_ones(4), "running_var": 2 * x.new_ones(4)}


KERNEL = torch.randn(4, 4, 1, 1, generator=torch.Generator().manual_seed(0))
HOLDS = [
    pytest.param(lambda x: 3 - x, id="rsub"),
    pytest.param(lambda x: torch.rsub(x, 3, alpha=2), id="rsub, alpha"),
    pytest.param(lambda x: torch.add(x, 3, alpha=2), id="add, alpha"),
    pytest.param(lambda x: torch.sub(x, 3, alpha=2), id="sub, alpha"),
    pytest.param(lambda x: torch.lerp(x, F.conv2d(x, KERNEL), 0.25), id="lerp"),
    pytest.param(lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), id="avg pool that leaves padding out"),
    pytest.param(lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), id="avg pool, ceil mode"),
    pytest.param(lambda x: F.pad(x, (0, 2, 1, 0), "reflect"), id="reflect pad"),
    pytest.param(lambda x: F.dropout(x, 0.5, training=False), id="dropout"),
    pytest.param(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), id="bilinear"),
]
STOPS = [
    pytest.param(lambda x: F.avg_pool2d(x, 3, 1, 1), id="avg pool that counts padding"),
    pytest.param(lambda x: F.avg_pool2d(x, 3, 1, 0, divisor_override=5), id="avg pool with a divisor"),
    pytest.param(lambda x: F.pad(x, (0, 2, 1, 0), value=0.75), id="pad by a number"),
    pytest.param(lambda x: F.pad(x, (0, 2, 1, 0)), id="pad by zero"),
    pytest.param(lambda x: F.leaky_relu(x, 0.3), id="leaky relu"),
    pytest.param(lambda x: F.rrelu(x, 0.1, 0.5), id="rrelu"),
    pytest.param(lambda x: F.relu6(x), id="relu6"),
    pytest.param(lambda x: F.hardtanh(x, -0.25, 0.5), id="hardtanh"),
    pytest.param(lambda x: x.clamp(-0.5, 0.25), id="clamp"),
    pytest.param(lambda x: x.to(torch.float64).to(torch.float32), id="a cast that narrows"),
    pytest.param(lambda x: x.int().float(), id="integers"),
    pytest.param(lambda x: (x > 0) * x, id="a mask"),
    pytest.param(lambda x: F.instance_norm(x, **statistics(x), use_input_stats=True), id="instance norm of its input"),
    pytest.param(lambda x: F.batch_norm(x, None, None, training=True), id="batch norm of its input"),
]


def folded(body: Callable[[Tensor], Tensor]) -> tuple[bool, Tensor, Tensor]:
    """Whether every BatchNorm went; the outputs with and without the fold. gamma has both signs."""
    torch.manual_seed(0)
    module = Between(body)
    module.norm.weight.data = torch.tensor([0.5, -1.5, 2.0, -0.7])
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2)
    module.norm.bias.data.normal_()
    module.conv.weight.data.normal_()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(module.eval(), (x,))
        result = fold_program(program)
        return not result.plan.kept, result.model.module()(x), program.module()(x)


@pytest.mark.parametrize("body", HOLDS)
def test_what_a_fold_goes_through(body: Callable[[Tensor], Tensor]) -> None:
    went, got, wanted = folded(body)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert went


@pytest.mark.parametrize("body", STOPS)
def test_what_stops_a_fold(body: Callable[[Tensor], Tensor]) -> None:
    went, got, wanted = folded(body)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert not went


def test_a_pad_of_channels_moves_them() -> None:
    """A scale by channel, with no shift that would stop it, belongs to the channel before."""
    torch.manual_seed(0)
    module = Between(lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, :4])
    module.norm.weight.data = torch.tensor([0.5, -1.5, 2.0, -0.7])
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(module.eval(), (x,))
        result = fold_program(program)
        torch.testing.assert_close(result.model.module()(x), program.module()(x), rtol=1e-4, atol=1e-5)
