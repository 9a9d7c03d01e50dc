"""Parameters that are data in modules: positions that are added, tokens that are joined, embeddings."""

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters import onnx_file, torch_module
from bnfold.folding import fold
from bnfold.raising import raised
from bnfold.training.statistics import randomise_
from bnfold.why import Why
from tests.test_adapters_agree_torch import outcomes

TOKENS = torch.randn(2, 7, 4)
WORDS = torch.tensor([[4, 0, 2], [2, 2, 1]])


class Base(nn.Module):
    """Ends in BatchNorm over the features of tokens, ReLU and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def end(self, tokens: Tensor) -> Tensor:
        return self.head(self.bn(tokens.transpose(1, 2)).transpose(1, 2).relu())


class Positions(Base):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6, bias=False)
        self.fc.register_forward_hook(lambda *_: None)  # so that its weight stays
        self.position = nn.Parameter(torch.randn(1, 7, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.position + torch.sigmoid(self.fc(x)))


class Token(Base):
    """A vision transformer's class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, 8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(torch.cat((self.token.expand(x.shape[0], -1, -1), self.fc(x)), 1) + self.position)


class Words(Base):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 6)
        self.position = nn.Embedding(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.words(x) + self.position(torch.arange(3)))


class Twice(Words):
    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.words(x) + self.words(x.flip(1)))


class Tied(Words):
    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.words(x)) @ self.words.weight[:3]


class Renormalised(Base):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 6, max_norm=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.words(x))


FOLDS = [
    pytest.param(Token, TOKENS, id="token and positions"),
    pytest.param(Words, WORDS, id="embeddings"),
    pytest.param(Twice, WORDS, id="one embedding twice"),
]


@pytest.mark.parametrize(("kind", "x"), FOLDS)
def test_a_batch_norm_folds_into_parameters(kind: type[Base], x: Tensor) -> None:
    torch.manual_seed(0)
    module = randomise_(kind(), 0, negative=True).eval()
    result = bnfold.fold(module, (x,))
    assert result.plan.kept == ()
    assert isinstance(result.model.bn, nn.Identity)
    torch.testing.assert_close(result.model(x), module(x), rtol=1e-4, atol=1e-5)
    assert {name for name, _ in result.model.named_parameters()} <= {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "x", "why"),
    [
        pytest.param(Positions, TOKENS, Why.NO_RULE, id="behind a sigmoid"),
        pytest.param(Tied, WORDS, Why.SHARED, id="tied to a weight"),
        pytest.param(Renormalised, WORDS, Why.NO_RULE, id="a table that the forward changes"),
    ],
)
def test_what_else_reads_a_parameter_keeps_it(kind: type[Base], x: Tensor, why: Why) -> None:
    module = randomise_(kind(), 0, negative=True).eval()
    result = bnfold.fold(module, (x,))
    (kept,) = result.plan.kept
    assert why in {reason.why for reason in kept.why}


@pytest.mark.parametrize(("kind", "x"), FOLDS)
def test_programs_and_onnx_files_fold_too(kind: type[Base], x: Tensor, tmp_path: object) -> None:
    module = randomise_(kind(), 0, negative=True).eval()
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "model.pt2")
    assert bnfold.fold(tmp_path / "model.pt2", output=tmp_path / "folded.pt2").plan.kept == ()
    bnfold.export(module, (x,), tmp_path / "model.onnx", fold=False, verify=False)
    through_onnx = fold(raised(onnx_file.read(tmp_path / "model.onnx")))
    through_torch = fold(raised(torch_module.read(module, (x,), strict_limits=False)))
    assert outcomes(through_torch) == outcomes(through_onnx) == [frozenset()]
