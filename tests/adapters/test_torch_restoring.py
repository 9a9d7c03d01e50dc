"""A module is the same behind a run, whatever its forward writes to."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters import torch_truth
from bnfold.adapters.torch_restoring import unchanged
from tests.adapters.torch_networks import conv_bn, image, randomised


class Noting(nn.Module):
    """Has every kind of memory, and a forward that does what it is told to it."""

    def __init__(self, note: Callable[[Any, Tensor], object]) -> None:
        super().__init__()
        self.body, self.note = conv_bn(), note
        self.register_buffer("count", torch.ones(2))
        self.plain = torch.ones(2)
        self.temperature = nn.Parameter(torch.full((2,), 5.0))
        self.seen: list[Any] = [1]
        self.cache: dict[str, Any] = {"a": 1}
        self.kinds = {1}

    def forward(self, x: Tensor) -> Tensor:
        self.note(self, x)
        y: Tensor = self.body(x)
        return y


NOTES: dict[str, Callable[[Any, Tensor], object]] = {
    "a buffer": lambda self, x: self.count.add_(1),
    "a buffer's data": lambda self, x: self.count.data.add_(1),
    "a plain tensor": lambda self, x: self.plain.add_(1),
    "a part of one": lambda self, x: self.plain[:1].mul_(3),
    "a buffer's length": lambda self, x: self.count.resize_(3).fill_(1),
    "a parameter's data": lambda self, x: self.temperature.data.clamp_(max=4.0),
    "an attribute": lambda self, x: setattr(self, "last", x),
    "an attribute that goes": lambda self, x: self.__dict__.pop("plain", None),
    "a list": lambda self, x: self.seen.append(x),
    "an item of a list": lambda self, x: self.seen.__setitem__(0, 2),
    "a dict": lambda self, x: self.cache.update(b=x),
    "a value of a dict": lambda self, x: self.cache.update(a=x),
    "a set": lambda self, x: self.kinds.add(2),
}


def state(module: Noting) -> list[Any]:
    names = sorted(set(vars(module)) | set(module._buffers) | set(module._parameters))
    kept = [name for name in names if not name.startswith("_") and name not in ("body", "note")]
    return [(name, copy.deepcopy(getattr(module, name))) for name in kept]


@pytest.mark.parametrize("note", NOTES.values(), ids=NOTES)
def test_a_run_leaves_nothing_behind(note: Callable[[Any, Tensor], object]) -> None:
    module = Noting(note).eval()
    before = state(module)
    with torch.no_grad():
        with unchanged(module):
            module(image())
        assert repr(state(module)) == repr(before)
        module(image())
        assert repr(state(module)) != repr(before)


@pytest.mark.parametrize("note", ["a buffer", "a plain tensor", "a list", "a parameter's data"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_fold_leaves_nothing_behind(note: str, inplace: bool) -> None:
    module = randomised(Noting(NOTES[note]))
    before = state(module)
    result = bnfold.fold(module, image(), inplace=inplace)
    assert repr(state(module)) == repr(before)
    assert repr(state(result.model)) == repr(before)


PARAMETRIZED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", PARAMETRIZED)
@pytest.mark.parametrize("how", ["fails", "is only planned"])
def test_a_bake_in_place_is_taken_back(monkeypatch: pytest.MonkeyPatch, name: str, how: str) -> None:
    module = randomised(nn.Sequential(PARAMETRIZED[name](nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    with torch.no_grad():
        wanted = module(image())
    kind, hooks, before = type(module[0]), len(module[0]._forward_pre_hooks), copy.deepcopy(module.state_dict())
    if how == "fails":
        monkeypatch.setattr(torch_truth, "require_same", refuse)
        with pytest.raises(bnfold.DifferentError, match="no"):
            bnfold.fold(module, image(), inplace=True, bake=True)
    else:
        assert bnfold.fold(module, image(), inplace=True, bake=True, dry_run=True).plan.folded
    assert (type(module[0]), len(module[0]._forward_pre_hooks)) == (kind, hooks)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    with torch.no_grad():
        assert torch.equal(module(image()), wanted)
    monkeypatch.undo()
    assert bnfold.fold(module, image(), inplace=True, bake=True).plan.folded


def refuse(*_: object) -> None:
    raise bnfold.DifferentError("no")


class Deciding(nn.Module):
    """A branch on numbers, which no capture can follow, between two parts that one can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y) if y.sum() > 0 else self.second(-y)


def test_in_place_too_the_parts_are_folded_where_the_whole_can_not_be_captured() -> None:
    module = randomised(Deciding())
    with torch.no_grad():
        wanted = module(image())
    result = bnfold.fold(module, image(), inplace=True)
    assert result.model is module
    assert len(result.plan.folded) == 2
    with torch.no_grad():
        torch.testing.assert_close(module(image()), wanted, rtol=1e-4, atol=1e-5)


def test_the_parts_are_taken_back_where_the_whole_is_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = randomised(Deciding())
    before, parts = copy.deepcopy(module.state_dict()), list(module.modules())
    right = torch_truth.require_same

    def wrong(*given: Any) -> None:
        if "Deciding" in given[3]:
            raise bnfold.DifferentError("no")
        right(*given)

    monkeypatch.setattr(torch_truth, "require_same", wrong)
    with pytest.raises(bnfold.DifferentError, match="no"):
        bnfold.fold(module, image(), inplace=True)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(one is other for one, other in zip(module.modules(), parts, strict=True))
