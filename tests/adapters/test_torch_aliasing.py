"""Updates in place beside a BatchNorm: folded where they reach nobody else, else kept with the reason."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnfold.adapters.torch_module import fold_module
from bnfold.why import Why


class Network(nn.Module):
    def __init__(self, run: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.run = run
        with torch.no_grad():
            for item in (*self.norm.parameters(), self.norm.running_mean):
                item.copy_(torch.randn(4))
        self.norm.running_var.copy_(torch.rand(4) + 0.3)
        self.third = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def alone(net: nn.Module, x: Tensor) -> object:
    return net.second(F.relu_(net.norm(net.first(x))))


def after_the_other_reader(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    y, z = net.norm(x), net.second(x)
    return F.relu_(y), z


def residual(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    y = net.norm(net.second(x))
    y += x
    return F.relu_(y)


def before_the_other_reader(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    y = F.relu_(net.norm(x))
    return y, net.second(x)


def of_the_input_of_the_norm(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    y = net.norm(x)
    x.sigmoid_()
    return net.second(y)


def by_a_module_of_the_input_of_the_norm(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    y = net.norm(x)
    return net.second(y), net.relu(x)


def through_a_view(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    y = net.norm(x)
    y.flatten(1).relu_()
    return net.second(y), x.flatten(1)


def as_a_statement(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    y = net.norm(x)
    net.relu(y)
    return net.second(y), net.third(x)


def as_a_statement_on_a_copy_that_is_none(net: nn.Module, x: Tensor) -> object:
    x = net.first(x)
    z = net.second(x)
    y = net.norm(x)
    same = y.contiguous()
    net.relu(y)
    return net.second(same), z


@pytest.mark.parametrize("run", [alone, after_the_other_reader, residual])
def test_an_update_that_reaches_nobody_else_lets_the_norm_go(run):
    assert len(folded(run).plan.folded) == 1


@pytest.mark.parametrize(
    "run",
    [before_the_other_reader, of_the_input_of_the_norm, by_a_module_of_the_input_of_the_norm],
)
def test_an_update_that_others_would_see_keeps_the_norm(run):
    result = folded(run)
    assert {reason.why for kept in result.plan.kept for reason in kept.why} == {Why.OVERWRITTEN}


def test_a_module_that_updates_in_place_as_a_statement_keeps_the_norm():
    (kept,) = folded(as_a_statement).plan.kept
    assert [reason.why for reason in kept.why] == [Why.OVERWRITTEN]


def test_an_activation_that_is_called_as_a_statement_goes_on_working_in_place():
    result = folded(as_a_statement_on_a_copy_that_is_none)
    assert result.model.relu.inplace


def test_an_update_through_a_view_is_understood_without_a_warning():
    assert not folded(through_a_view).plan.folded


def test_an_update_of_what_the_caller_owns_keeps_the_norm():
    net = Network(lambda net, x: net.second(F.relu_(net.norm(x)))).eval()
    x = torch.randn(2, 4, 5, 5)
    result = fold_module(net, x)
    given = x.clone()
    result.model(given)
    assert torch.equal(given, x)
    assert [reason.why for kept in result.plan.kept for reason in kept.why] == [Why.OVERWRITTEN]


def folded(run):
    """Fold, and compare with the network in float64."""
    torch.manual_seed(0)
    net = Network(run).eval()
    x = torch.randn(2, 3, 6, 6)
    result = fold_module(net, x)
    with torch.no_grad():
        wanted, got = Network.forward(_wide(net), x.double()), result.model(x)
    for want, have in zip(*map(_tuple, (wanted, got)), strict=True):
        assert torch.allclose(have.double(), want, rtol=1e-5, atol=1e-5)
    return result


def _wide(net):
    wide = Network(net.run).eval().double()
    wide.load_state_dict(net.state_dict())
    return wide


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)
