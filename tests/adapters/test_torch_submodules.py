"""Modules that can't be captured whole: their parts fold by the same names, patterns, plans and files."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters.torch_module import fold_with_edits
from bnfold.plan import Plan
from bnfold.why import Why
from tests.adapters.torch_networks import conv_bn, image, randomised


class Deciding(nn.Module):
    """A branch on numbers between two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv_bn(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y) if y.sum() > 0 else self.second(-y)


def outcomes(plan: Plan) -> tuple[list[str], list[tuple[str, list[Why]]]]:
    kept = [(outcome.affine, [reason.why for reason in outcome.why]) for outcome in plan.kept]
    return [outcome.affine for outcome in plan.folded], kept


@pytest.mark.parametrize(
    ("patterns", "folded"),
    [
        ({"only": ["first.1"]}, ["first.1"]),
        ({"skip": ["first.*"], "level": "max"}, ["second.2"]),
        ({"skip": ["1", "4"]}, ["first.1", "first.4"]),
        ({"only": ["first.?"], "skip": ["*.1"]}, ["first.4"]),
    ],
    ids=["only", "skip", "names in a part alone", "both"],
)
def test_patterns_mean_the_names_in_the_whole(patterns: Mapping[str, Any], folded: list[str]) -> None:
    module = randomised(Deciding())
    plan = bnfold.fold(module, image(), **patterns).plan
    assert outcomes(plan)[0] == folded


def test_a_plan_of_parts_is_carried_out() -> None:
    module = randomised(Deciding())
    plan = bnfold.fold(module, image(), dry_run=True, skip=["first.1"]).plan
    result = bnfold.fold(module, image(), plan=plan)
    assert outcomes(result.plan) == outcomes(plan)
    assert outcomes(plan)[0] == ["first.4"]
    torch.testing.assert_close(result.model(image()), module(image()), rtol=1e-4, atol=1e-5)


def test_a_plan_of_another_module_is_refused() -> None:
    module = randomised(Deciding())
    plan = bnfold.fold(module, image(), dry_run=True).plan
    module.add_module("third", module.first)
    del module.first
    module.first = lambda x: module.third(x)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(bnfold.BnfoldError, match=r"the plan names first\.\d, which no part of this module has"):
        bnfold.fold(module, image(), plan=plan, inplace=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_clips_of_parts_are_among_the_edits() -> None:
    module = randomised(Deciding())
    result, edits = fold_with_edits(module, image(), level="max")
    assert edits.clips == {"second.1": (4, 1, 1)}
    again = Deciding()
    edits.apply(again)
    again.load_state_dict(result.model.state_dict())
    assert torch.equal(again(image()), result.model(image()))


class Switched(nn.Module):
    """A part with a switch, and another inside of it that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = conv_bn(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor, *, plain: bool = False) -> Tensor:
        y = self.inner(x)
        return y if plain else self.norm(y)


class Switching(nn.Module):
    """Calls its part in these ways, and branches on what comes out."""

    def __init__(self, *ways: Mapping[str, bool]) -> None:
        super().__init__()
        self.part, self.ways = Switched(), ways

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([self.part(x, **way) for way in self.ways]).sum(0)
        return -y if y.sum() > 0 else y


@pytest.mark.parametrize(
    ("ways", "folded", "kept"),
    [
        ([{}], ["part.inner.1"], ["part.norm"]),
        ([{"plain": True}], ["part.inner.1"], []),
        ([{"plain": True}, {"plain": True}], ["part.inner.1"], []),
        ([{}, {"plain": True}], ["part.inner.1"], []),
    ],
    ids=["without", "with", "twice with", "with and without"],
)
def test_parts_are_followed_as_they_are_called(
    ways: list[Mapping[str, bool]], folded: list[str], kept: list[str]
) -> None:
    module = randomised(Switching(*ways))
    result = bnfold.fold(module, image())
    assert [affine for affine, _ in outcomes(result.plan)[1]] == kept
    assert outcomes(result.plan)[0] == folded
    torch.testing.assert_close(result.model(image()), module(image()), rtol=1e-4, atol=1e-5)


class Holding(Deciding):
    """Holds a weight of a part as its own, too."""

    def __init__(self) -> None:
        super().__init__()
        self.own = self.first[0].weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        return y + self.own.sum() if y.sum() < 0 else y


def test_a_weight_that_the_whole_holds_as_well_stays() -> None:
    result = bnfold.fold(randomised(Holding()), image())
    assert all(not affine.startswith("first") for affine in outcomes(result.plan)[0])
    assert any("first: not folded (its weights are used elsewhere too)" in note for note in result.notes)
