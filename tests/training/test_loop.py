"""The loop's parts: batches, order, schedules, what decays."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES, create
from bnfold.training.loop import batch_bounds, build_optimiser, data_order
from bnfold.training.settings import OPTIMISERS, SCHEDULES, Options, Settings
from bnfold.training.statistics import batch_norms
from bnfold.training.tasks import objective


@given(images=st.integers(2, 3000), batch_size=st.integers(2, 300))
def test_batches_cover_all_images_and_none_has_a_single_one(images, batch_size):
    bounds = batch_bounds(images, batch_size)
    sizes = [end - start for start, end in bounds]
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == images
    assert min(sizes) >= 2
    assert max(sizes) <= max(batch_size, 3)
    assert max(sizes) - min(sizes) <= 1


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch():
    orders = [data_order(50, seed, epoch).tolist() for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert data_order(50, 0, 1).tolist() == orders[0]
    data_order(5, 2**63 - 1, 10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_between_0_and_1_and_reach_1(name):
    values = [SCHEDULES[name](step / 1000) for step in range(1000)]
    assert min(values) > 0
    assert max(values) == pytest.approx(1)
    if name != "constant":
        assert values[-1] < 0.011


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_weights_decay_and_batch_norms_and_biases_do_not(name, optimiser):
    model = create(name)
    groups = build_optimiser(model, Settings(name, optimiser=optimiser, weight_decay=0.5)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert set(decays) == {id(p) for p in model.parameters()}
    exempt = {id(t) for layer in batch_norms(model) for t in (layer.gamma, layer.beta)}
    for key, parameter in model.named_parameters():
        spared = id(parameter) in exempt or key.endswith("bias")
        assert decays[id(parameter)] == (0.0 if spared else 0.5), key
    assert groups[0]["lr"] == OPTIMISERS[optimiser]


def test_a_perfect_reconstruction_scores_1_and_the_mean_scores_0():
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    judge = objective("reconstruct", x)
    assert judge.points(x, x, x) == len(x)
    assert judge.points(x.mean().expand_as(x), x, x) == pytest.approx(0, abs=1e-9)
    assert judge.loss(x + 2, x, x) == pytest.approx(4)


def test_classification_counts():
    logits = torch.tensor([[3.0, 1, 2], [0, 1, 0], [0, 1, 9]])
    judge = objective("classify", logits)
    assert judge.points(logits, logits, torch.tensor([0, 2, 2])) == 2


WRONG = [
    ({"architecture": "alexnet"}, "architecture 'alexnet': not known; choose from lenet"),
    ({"optimiser": "lion"}, "choose from adamw, adam, sgd"),
    ({"schedule": "none"}, "choose from onecycle"),
    ({"epochs": 0}, "epochs 0: must be 1 or more"),
    ({"batch_size": 1}, "one image has no batch statistics"),
    ({"learning_rate": -1.0}, "learning rate -1.0: must be"),
    ({"learning_rate": float("nan")}, "learning rate nan: must be"),
    ({"weight_decay": float("inf")}, "weight decay inf: must be"),
    ({"bn_momentum": 0.0}, "bn momentum 0.0: must be above 0"),
    ({"bn_eps": 0.0}, "bn eps 0.0: must be above 0"),
    ({"threads": 0}, "threads 0: must be from 1"),
    ({"seed": -1}, "seed -1: must be"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_settings_that_can_not_train(change, message):
    with pytest.raises(BnfoldError) as caught:
        Settings(**{"architecture": "lenet", **change})
    assert message in str(caught.value)


def test_options_are_the_settings_but_for_what_is_trained_on_what():
    assert {"architecture", "data", *Options.__annotations__} == {entry.name for entry in fields(Settings)}


def test_settings_come_back():
    settings = Settings("mlp", seed=3, arguments={"width": 8})
    assert Settings.from_dict(settings.to_dict()) == settings
    for content in (None, {}, {**settings.to_dict(), "more": 1}, {**settings.to_dict(), "epochs": "x"}):
        with pytest.raises(BnfoldError, match="malformed"):
            Settings.from_dict(content)
