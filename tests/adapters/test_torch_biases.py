"""Products in the code of a forward, which have no bias: where a shift goes from them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters.torch_capture import quietly
from bnfold.adapters.torch_program import fold_program
from bnfold.plan import SetBias
from bnfold.result import FoldResult
from bnfold.why import Why
from tests.adapters.torch_networks import image, randomised

torch.set_num_threads(1)
X = image((3, 5, 7))


class Products(nn.Module):
    """BatchNorm over the features of (N, C, L), and a body that reads them last."""

    def __init__(self, body: "Callable[[Products, Tensor], Tensor]") -> None:
        super().__init__()
        self.bn, self.fc, self.body = nn.BatchNorm1d(5), nn.Linear(4, 3), body
        self.one, self.two = (nn.Parameter(torch.randn(5, 4)) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.bn(x).transpose(1, 2))


def einsum(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nlc,cd->nld", x, weight)


BODIES = {
    "einsum": lambda m, x: m.fc(einsum(x, m.one)),
    "einsum with dots": lambda m, x: m.fc(torch.einsum("...c,cd->...d", x, m.one)),
    "einsum, the weight first": lambda m, x: m.fc(torch.einsum("cd,nlc->nld", m.one, x)),
    "matmul": lambda m, x: m.fc(x @ m.one),
    "two of them": lambda m, x: m.fc(einsum(x, m.one) + x @ m.two),
}
BENDS = {
    "einsum": lambda m, x: torch.relu(einsum(x, m.one)),
    "einsum with dots": lambda m, x: torch.relu(torch.einsum("...c,cd->...d", x, m.one)),
    "matmul": lambda m, x: torch.relu(x @ m.one),
}
ADDS = {
    "einsum": lambda m, x: torch.relu(einsum(x, m.one) + m.bias),
    "einsum with dots": lambda m, x: torch.relu(m.bias + torch.einsum("...c,cd->...d", x, m.one)),
    "matmul": lambda m, x: torch.relu(x @ m.one + m.bias),
}


def made(body: Callable[[Products, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return randomised(Products(body))


def program(module: nn.Module) -> FoldResult:
    with torch.no_grad(), quietly():
        exported = torch.export.export(module, (X,))
    result = fold_program(exported)
    count = [sum(node.op == "call_function" for node in one.graph.nodes) for one in (exported, result.model)]
    assert count[1] <= count[0]
    with torch.no_grad():
        torch.testing.assert_close(result.model.module()(X), module(X), rtol=1e-4, atol=1e-5)
    return result


@pytest.mark.parametrize("body", BODIES)
def test_the_layer_behind_takes_the_shift(body: str) -> None:
    module = made(BODIES[body])
    result = bnfold.fold(module, X)
    assert len(result.plan.folded) == 1
    assert "fc" in result.plan.folded[0].into
    with torch.no_grad():
        torch.testing.assert_close(result.model(X), module(X), rtol=1e-4, atol=1e-5)
    written = program(module)
    assert {edit.node for edit in written.plan.edits if isinstance(edit, SetBias)} == {"fc"}


@pytest.mark.parametrize("body", BENDS)
def test_where_none_does_an_add_stands_in_a_program_and_a_module_keeps_its_batch_norm(body: str) -> None:
    module = made(BENDS[body])
    (kept,) = bnfold.fold(module, X).plan.kept
    assert Why.NO_BIAS in {reason.why for reason in kept.why}
    assert len(program(module).plan.folded) == 1


@pytest.mark.parametrize("body", ADDS)
def test_what_is_added_is_the_bias(body: str) -> None:
    result = program(made(ADDS[body]))
    assert [len(outcomes) for outcomes in (result.plan.folded, result.plan.kept)] == [1, 0]


def test_two_adds_for_one_batch_norm_are_one_too_many() -> None:
    module = made(lambda m, x: torch.relu(einsum(x, m.one)) + torch.relu(einsum(x, m.two)))
    (kept,) = program(module).plan.kept
    assert Why.NO_BIAS in {reason.why for reason in kept.why}
