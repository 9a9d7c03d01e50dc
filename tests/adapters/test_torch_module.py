"""fold_module: the user's own class comes back, the same function, whatever it is made of."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bnfold
from bnfold import ops
from bnfold.adapters.torch_module import fold_module, read
from bnfold.errors import BnfoldError, DifferentError
from bnfold.plan import Remove, ScaleWeight, SetBias
from bnfold.why import Why
from tests.adapters.torch_networks import SHAPE, conv_bn, image, randomised

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def run(module: nn.Module, *args: object, **kwargs: object) -> list[Tensor]:
    with torch.no_grad():
        found = module(*args, **kwargs)
    return [item for item in torch.utils._pytree.tree_leaves(found) if isinstance(item, Tensor)]


def require_fold(
    module: nn.Module,
    inputs: object,
    folded: int,
    whys: tuple[Why, ...] = (),
    kwargs: dict[str, object] | None = None,
    **options: object,
) -> nn.Module:
    """Fold; demand the counts and the reasons, the same outputs, an unchanged argument, and that once is enough."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    kinds = [type(part) for part in module.modules()]
    result = fold_module(module, inputs, kwargs, **options)
    assert len(result.plan.folded) == folded, str(result.graph)
    assert {reason.why for kept in result.plan.kept for reason in kept.why} >= set(whys)
    assert bool(result.plan.kept) == bool(whys)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    wanted = run(module, *args, **(kwargs or {}))
    got = run(result.model, *args, **(kwargs or {}))
    assert len(wanted) == len(got)
    for one, other in zip(wanted, got, strict=True):
        scale = float(one.abs().max()) or 1.0
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * scale)
    assert type(result.model) is type(module)
    assert [type(part) for part in module.modules()] == kinds
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    again = fold_module(result.model, inputs, kwargs, **options)
    assert not again.plan.folded
    return result.model


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.batchnorm._NormBase) for part in module.modules())


# What folds.

LINEAR = [
    pytest.param(lambda: nn.Conv1d(3, 4, 3), nn.BatchNorm1d, (2, 3, 9), id="conv1d"),
    pytest.param(lambda: nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d, SHAPE, id="conv2d without a bias"),
    pytest.param(lambda: nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d, SHAPE, id="conv2d, same"),
    pytest.param(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d, SHAPE, id="reflect"),
    pytest.param(lambda: nn.Conv3d(3, 4, 2), nn.BatchNorm3d, (2, 3, 4, 4, 4), id="conv3d"),
    pytest.param(lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d, SHAPE, id="groups"),
    pytest.param(lambda: nn.Linear(3, 4), nn.BatchNorm1d, (5, 3), id="linear"),
    pytest.param(lambda: nn.ConvTranspose1d(3, 4, 3), nn.BatchNorm1d, (2, 3, 9), id="transposed 1d"),
    pytest.param(lambda: nn.ConvTranspose2d(3, 3, 3, stride=2, bias=False), nn.BatchNorm2d, SHAPE, id="in == out"),
    pytest.param(lambda: nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d, SHAPE, id="transposed, groups"),
    pytest.param(lambda: nn.ConvTranspose3d(3, 4, 2), nn.BatchNorm3d, (2, 3, 4, 4, 4), id="transposed 3d"),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), LINEAR)
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_behind_a_linear_layer(layer, norm, shape, affine):
    linear = layer()
    channels = getattr(linear, "out_channels", None) or linear.out_features
    module = randomised(nn.Sequential(linear, nn.Identity(), nn.Dropout(), norm(channels, affine=affine), nn.Sigmoid()))
    assert norms(require_fold(module, image(shape), 1)) == 0


def test_a_norm_before_a_linear_layer():
    module = randomised(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU()))
    require_fold(module, image(), 1)


def test_zero_gamma_is_a_dead_channel():
    module = randomised(conv_bn())
    with torch.no_grad():
        module[1].weight[2] = 0
    folded = require_fold(module, image(), 1)
    assert not folded[0].weight[2].any()
    assert folded[0].bias[2] == module[1].bias[2]


def test_sync_batch_norm_and_instance_norm_with_statistics():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.Conv2d(4, 4, 1))
    require_fold(randomised(module), image(), 1)
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    require_fold(randomised(nn.Sequential(nn.Conv2d(3, 4, 3), norm)), image(), 1)


class HandWritten(nn.Module):
    """BatchNorm from tensors, which are plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor([0.5, -2.0, 3.0, 1.5]).reshape(1, 4, 1, 1))
        self.mean = torch.tensor([0.1, 1.0, -1.0, 2.0]).reshape(1, 4, 1, 1)
        self.var = torch.tensor([0.5, 1.0, 2.0, 3.0]).reshape(1, 4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / torch.sqrt(self.var + 1e-5) * self.gamma + 0.25


def test_a_submodule_that_is_nothing_but_an_affine_goes():
    folded = require_fold(nn.Sequential(nn.Conv2d(3, 4, 3), HandWritten(), nn.ReLU()).eval(), image(), 1)
    assert isinstance(folded[1], nn.Identity)


class NormAct(nn.BatchNorm2d):
    """BatchNorm that carries its activation, as timm's BatchNormAct2d."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(self.drop(x))


def test_a_norm_that_carries_an_activation_leaves_it():
    folded = require_fold(randomised(nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4), nn.Conv2d(4, 2, 1))), image(), 1)
    assert type(folded[1]) is nn.ReLU


class DoubledNorm(nn.BatchNorm2d):
    """A subclass whose own code is more than its name says, and still an affine."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class AbsNorm(nn.BatchNorm2d):
    """A subclass whose own code is no affine."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs()


def test_subclasses_are_judged_by_what_they_do():
    require_fold(randomised(nn.Sequential(nn.Conv2d(3, 4, 3), AbsNorm(4))), image(), 0, (Why.SUBCLASS,))


class InPlace(nn.Module):
    """Residual pre-activation with in-place activations: Identity in the norm's place would share its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        trunk = self.conv1(x)
        return trunk + self.conv2(self.relu(self.norm(trunk)))


def test_in_place_activations_don_t_reach_what_others_read():
    module = randomised(InPlace())
    with torch.no_grad():
        module.norm.weight.abs_()
    folded = require_fold(module, image(), 1)
    assert not folded.relu.inplace
    assert module.relu.inplace


# Called several times, tied, exposed.


class Twice(nn.Module):
    def __init__(self, which: str) -> None:
        super().__init__()
        self.which = which
        self.conv, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        if which == "tied":
            self.conv2.weight = self.conv.weight
        if which == "alias":
            self.conv2 = self.conv

    def forward(self, x: Tensor) -> object:
        match self.which:
            case "both, one norm":
                return self.norm(self.conv(self.norm(self.conv(x))).sigmoid())
            case "block":
                return self.norm(self.conv(self.norm(self.conv(x)).sigmoid()))
            case "conv twice, norm once":
                return self.conv(self.norm(self.conv(x)).sigmoid())
            case "conv twice, two norms":
                return self.norm2(self.conv(self.norm(self.conv(x)).sigmoid()))
            case "norm behind two convs":
                return self.norm(self.conv(x)).sigmoid() + self.norm(self.conv2(x)).sigmoid()
            case "two norms behind a conv":
                y = self.conv(x)
                return self.norm(y).sigmoid() + self.norm2(y).sigmoid()
            case "conv, norm, norm":
                return self.norm2(self.norm(self.conv(x)))
            case "tied" | "alias":
                return self.norm2(self.conv2(self.norm(self.conv(x)).sigmoid()))
            case "conv is an output":
                y = self.conv(x)
                return self.norm(y), y
            case "norm is an output":
                y = self.norm(self.conv(x))
                return {"y": y, "z": self.conv2(y).relu()}
            case "conv is read elsewhere":
                y = self.conv(x)
                return self.norm(y).sigmoid() * y.mean()
        raise AssertionError(self.which)


SHARED = [
    ("block", 2, ()),
    ("conv twice, norm once", 0, (Why.REPEATED,)),
    ("conv twice, two norms", 1, (Why.REPEATED,)),  # the norm that stays takes up what the other one left
    ("norm behind two convs", 2, ()),
    ("conv, norm, norm", 2, ()),
    ("tied", 2, ()),
    ("alias", 1, (Why.REPEATED,)),
    ("conv is an output", 0, (Why.OUTPUT,)),
    ("norm is an output", 1, ()),
]


@pytest.mark.parametrize(("which", "folded", "whys"), SHARED, ids=[case[0] for case in SHARED])
def test_layers_that_are_used_more_than_once(which, folded, whys):
    require_fold(randomised(Twice(which)), image(), folded, whys)


@pytest.mark.parametrize("which", ["both, one norm", "two norms behind a conv", "conv is read elsewhere"])
def test_what_can_t_be_folded_whole_is_right_all_the_same(which):
    module = randomised(Twice(which))
    folded = fold_module(module, image()).model
    for one, other in zip(run(module, image()), run(folded, image()), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


# Traps of other tools.


def test_a_norm_on_another_axis_than_the_linear_layer_s():
    module = randomised(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))  # L == C
    require_fold(module, image((2, 4, 4)), 0, (Why.AXIS,))


def test_hooks_see_what_they_saw():
    seen: list[Tensor] = []
    module = randomised(conv_bn())
    module[0].register_forward_hook(lambda part, args, output: seen.append(output.detach().clone()) or None)
    run(module, image())
    before = seen[-1]
    folded = require_fold(module, image(), 0, (Why.HOOKED,))
    seen.clear()
    run(folded, image())
    torch.testing.assert_close(seen[-1], before)
    assert len(folded[0]._forward_hooks) == 1


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_on_the_norm_keeps_it(register):
    module = randomised(conv_bn())
    getattr(module[1], register)(lambda part, args, *rest: None)
    require_fold(module, image(), 0, (Why.HOOKED,))


def test_a_norm_in_training_mode_stays():
    module = randomised(conv_bn())
    module[1].train()
    result = fold_module(module, image())
    assert [reason.why for kept in result.plan.kept for reason in kept.why] == [Why.TRAINING]
    assert norms(result.model) == 1


def test_a_module_in_training_mode_is_refused():
    with pytest.raises(BnfoldError, match=r"training mode; call \.eval\(\)"):
        fold_module(conv_bn(), image())


def test_a_norm_without_statistics_stays():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    require_fold(module, image(), 0, (Why.NO_STATISTICS,))


class Standardised(nn.Conv2d):
    """Weight standardisation: the weight is computed at every call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias)


def test_a_computed_weight_stays():
    module = randomised(nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    require_fold(module, image(), 0, (Why.COMPUTED,))


PARAMETRIZED = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrizations_are_refused_by_name_and_baked_on_demand(name):
    layer = PARAMETRIZED[name](nn.Conv2d(3, 4, 3))
    module = randomised(nn.Sequential(layer, nn.BatchNorm2d(4), nn.ReLU()))
    module(image())  # copy.deepcopy fails on an old-style one from here on
    require_fold(module, image(), 0, (Why.PARAMETRIZED,))
    result = fold_module(module, image(), bake=True)
    assert len(result.plan.folded) == 1
    assert any("parametrization" in note for note in result.notes)
    torch.testing.assert_close(run(result.model, image())[0], run(module, image())[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 1e-8), (torch.bfloat16, 1e-5), (torch.float64, 1e-5)])
def test_dtypes_are_kept_and_rounded_once(dtype, eps):
    """In half, to one of the two neighbours."""
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=eps), nn.ReLU())).to(dtype)
    result = fold_module(module, image().to(dtype))
    assert result.model[0].weight.dtype == dtype
    norm, conv = module[1].double(), module[0].double()
    scale = (norm.weight / (norm.running_var + eps).sqrt()).detach()
    wanted = conv.weight.detach() * scale.reshape(-1, 1, 1, 1)
    spacing = torch.finfo(dtype).eps * wanted.abs().clamp(min=torch.finfo(dtype).smallest_normal)
    error = (result.model[0].weight.detach().double() - wanted).abs()
    assert bool((error <= spacing * (4 if dtype == torch.float64 else 1)).all())  # `wanted` is rounded itself


def test_an_overflow_is_refused_and_changes_nothing():
    module = randomised(conv_bn()).half()
    with torch.no_grad():
        module[1].running_var.fill_(6e-8)
        module[1].weight.fill_(6e4)
    result = fold_module(module, image().half() * 1e-3)
    assert [reason.why for kept in result.plan.kept for reason in kept.why] == [Why.OVERFLOW]


# The user's module comes back.


class Decorated(nn.Module):
    """A module with more than layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(bias=False)
        self.tag = {"version": 3}
        self.register_buffer("steps", torch.tensor(7))
        self.body[0].weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def describe(self) -> str:
        return f"version {self.tag['version']}"


def test_attributes_methods_and_flags_are_kept():
    module = randomised(Decorated()).to(memory_format=torch.channels_last)
    folded = require_fold(module, image(), 1)
    assert folded.describe() == "version 3"
    assert folded.steps == 7
    assert not folded.training
    assert not folded.body[0].weight.requires_grad
    assert not folded.body[0].bias.requires_grad
    assert folded.body[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_in_place_folds_the_module_itself():
    module = randomised(conv_bn())
    wanted = run(module, image())
    result = fold_module(module, image(), inplace=True)
    assert result.model is module
    assert norms(module) == 0
    torch.testing.assert_close(run(module, image()), wanted, rtol=1e-4, atol=1e-5)


def test_dry_run_only_plans():
    module = randomised(conv_bn())
    result = fold_module(module, image(), dry_run=True)
    assert result.model is module
    assert norms(module) == 1
    assert len(result.plan.folded) == 1


@dataclass
class Pair:
    left: Tensor
    right: Tensor


torch.utils._pytree.register_dataclass(Pair)


class Structured(nn.Module):
    """Takes and gives containers, with a keyword that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn()

    def forward(self, pair: Pair, *, more: dict[str, Tensor], twice: bool = False) -> dict[str, object]:
        y = self.body(pair.left) + self.body(pair.right)
        return {"sum": y * 2 if twice else y, "rest": [more["a"], (y.mean(),)]}


def test_containers_and_keywords():
    module = randomised(Structured())
    pair = Pair(image(), image(seed=2))
    require_fold(module, (pair,), 2, (Why.CODE,), kwargs={"more": {"a": image((2, 1))}, "twice": True})


class Counting(nn.Module):
    """Writes to a buffer, to an attribute and to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn()
        self.register_buffer("calls", torch.zeros(()))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x *= 2
        self.last = self.body(x)
        return self.last


def test_nothing_of_the_runs_stays_behind():
    module, x = randomised(Counting()), image()
    result = fold_module(module, x)
    assert len(result.plan.folded) == 1
    assert module.calls == result.model.calls == 0
    assert module.last is None
    assert result.model.last is None
    assert torch.equal(x, image())


class NoInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", image())
        self.body = conv_bn()

    def forward(self) -> Tensor:
        return self.body(self.start * 1.0)


def test_a_forward_without_tensors():
    module = randomised(NoInput())
    folded = fold_module(module, ()).model
    torch.testing.assert_close(run(folded), run(module), rtol=1e-4, atol=1e-5)


def test_lazy_and_meta_modules_are_refused():
    with pytest.raises(BnfoldError, match="lazy module"):
        fold_module(nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4)).eval(), image())
    with torch.device("meta"):
        module = conv_bn().eval()
    with pytest.raises(BnfoldError, match="meta device"):
        fold_module(module, image())


# Paths that a capture doesn't show.


class Branching(nn.Module):
    def __init__(self, on: str) -> None:
        super().__init__()
        self.on = on
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.on == "batch" and x.shape[0] == 1:
            return y
        if self.on == "parity" and x.shape[2] % 2:
            return y.relu()
        if self.on == "attribute" and hasattr(self.norm, "weight"):
            return self.norm(y) + self.norm.weight.sum()
        if self.on == "missing":
            return self.norm(y) * self.norm.eps
        if self.on == "instance" and isinstance(self.norm, nn.BatchNorm2d):
            return self.norm(y).relu()
        return self.norm(y)


@pytest.mark.parametrize("on", ["batch", "parity"])
def test_a_branch_on_the_size_is_found(on):
    with pytest.raises(BnfoldError, match="another path"):
        fold_module(randomised(Branching(on)), image())


@pytest.mark.parametrize("on", ["attribute", "instance", "missing"])
def test_a_norm_that_the_forward_looks_at_stays_and_the_others_go(on):
    module = randomised(nn.Sequential(Branching(on), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    result = fold_module(module, image())
    assert isinstance(result.model[0].norm, nn.BatchNorm2d)
    assert isinstance(result.model[2], nn.Identity)
    assert any("0.norm: the forward looks at it" in note for note in result.notes)
    own = {tensor.data_ptr() for tensor in module.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in result.model.state_dict().values()}
    torch.testing.assert_close(run(result.model, image()), run(module, image()), rtol=1e-4, atol=1e-5)


def test_a_plan_of_another_model_is_refused():
    plan = fold_module(randomised(conv_bn()), image(), dry_run=True).plan
    with pytest.raises(BnfoldError, match="names 0, which this module hasn't"):
        fold_module(randomised(Decorated()), image(), plan=plan)


def test_a_wrong_plan_is_found_and_taken_back():
    module = randomised(conv_bn(bias=False))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plan = fold_module(module, image(), dry_run=True).plan
    scale = next(edit for edit in plan.edits if isinstance(edit, ScaleWeight))
    wrong = dataclasses.replace(scale, out_factor=scale.out_factor * 1.0001)
    edits = tuple(wrong if edit is scale else edit for edit in plan.edits)
    with pytest.raises(DifferentError, match="the weight that was written isn't what the fold means"):
        fold_module(module, image(), inplace=True, plan=dataclasses.replace(plan, edits=edits))
    assert module[0].bias is None
    after = module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


class CalledTwice(nn.Module):
    """One convolution called twice, each time before a BatchNorm with the same numbers."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1, bias=bias), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).sigmoid() + self.norm(self.conv(x.flip(3))).sigmoid()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_plan_that_wants_two_things_of_one_layer_is_refused(part, bias):
    module = randomised(CalledTwice(bias))
    plan = fold_module(module, image(), dry_run=True).plan
    assert fold_module(module, image(), plan=plan).plan.folded

    def changed(edit):
        match part, edit:
            case "weight", ScaleWeight("conv@1", out_factor):
                return dataclasses.replace(edit, out_factor=2 * out_factor)
            case "bias", SetBias("conv@1", numbers):
                return dataclasses.replace(edit, bias=2 * numbers)
        return edit

    edits = tuple(changed(edit) for edit in plan.edits)
    assert sum(a is not b for a, b in zip(edits, plan.edits, strict=True)) == 1
    with pytest.raises(BnfoldError, match=rf"conv\.{part}: is used more than once, and the plan wants diff"):
        fold_module(module, image(), plan=dataclasses.replace(plan, edits=edits))


def test_a_plan_that_folds_one_of_two_calls_is_refused():
    module = randomised(CalledTwice(True))
    plan = fold_module(module, image(), dry_run=True).plan
    edits = tuple(edit for edit in plan.edits if edit != Remove("norm@1"))
    assert len(edits) == len(plan.edits) - 1
    with pytest.raises(BnfoldError, match="norm: only a part of it is folded, or only some of its calls"):
        fold_module(module, image(), plan=dataclasses.replace(plan, edits=edits))


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("which", ["tied", "no bias", "norm called twice"])
def test_what_is_new_trains_where_the_old_did(which, trains):
    """Parameters by requires_grad; modules are in eval mode, as all of it."""
    made = {"tied": lambda: Twice("tied"), "no bias": lambda: conv_bn(bias=False)}.get(which, lambda: CalledTwice(True))
    module = randomised(made()).requires_grad_(trains)
    folded = fold_module(module, image()).model
    assert sum(isinstance(part, nn.Identity) for part in folded.modules()) >= 1
    assert {parameter.requires_grad for parameter in folded.parameters()} == {trains}
    assert not any(part.training for part in folded.modules())


def test_a_bias_of_another_size_is_refused():
    module = randomised(conv_bn())
    plan = fold_module(module, image(), dry_run=True).plan
    edits = (
        dataclasses.replace(edit, bias=edit.bias[:1]) if isinstance(edit, SetBias) else edit for edit in plan.edits
    )
    with pytest.raises(BnfoldError, match=r"0\.bias: has shape \(4,\), and the fold needs \(1,\)"):
        fold_module(module, image(), plan=dataclasses.replace(plan, edits=tuple(edits)))


class Product(nn.Module):
    """beta * bias + alpha * x @ weight, and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.linspace(-1, 2, 20).reshape(4, 5)), nn.Parameter(torch.ones(5))
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.addmm(self.bias, x, self.weight, beta=0.5, alpha=2.0))


def test_a_bias_is_stored_before_beta():
    module = randomised(Product())
    result = fold_module(module, image((3, 4)))
    assert isinstance(result.model.norm, nn.Identity)
    torch.testing.assert_close(run(result.model, image((3, 4))), run(module, image((3, 4))), rtol=1e-5, atol=1e-5)


class DataDependent(nn.Module):
    """What torch.export can't follow: a branch on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(4, bias=False), nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
        self.lone = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if y.sum() > 0:
            return self.lone(self.head(y))
        return self.head(y)


def test_submodules_are_folded_where_the_whole_can_t_be_captured():
    module = randomised(DataDependent())
    result = fold_module(module, image())
    assert [outcome.affine for outcome in result.plan.folded] == ["stem.1", "head.1"]
    assert isinstance(result.model.lone, nn.BatchNorm2d)
    assert isinstance(result.model.stem[1], nn.Identity)
    assert any("stem, head: folded on its own" in note for note in result.notes)
    assert any("lone: not folded" in note for note in result.notes)
    torch.testing.assert_close(run(result.model, image()), run(module, image()), rtol=1e-4, atol=1e-5)
    assert norms(module) == 3


# Code in a larger forward.


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, -1.0, 0.5]).reshape(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        y = F.batch_norm(
            self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps
        )
        return y.sigmoid() * self.scale


def test_code_in_a_forward_stays_in_a_module_and_goes_from_a_graph():
    module = randomised(Functional())
    require_fold(module, image(), 0, (Why.CODE,))
    program = torch.export.export(module, (image(),))
    result = bnfold.fold(program)
    assert len(result.plan.folded) == 1
    assert not any("batch_norm" in str(node.target) for node in result.model.graph.nodes)
    torch.testing.assert_close(run(result.model.module(), image()), run(module, image()), rtol=1e-4, atol=1e-5)


# The graph.


def test_the_graph_bears_the_module_s_names():
    graph = read(randomised(Decorated()), image())
    assert [node.name for node in graph.nodes] == ["body.0", "body.1", "body.2"]
    assert graph.nodes[1].op == ops.BatchNorm(1e-5)
    assert graph.nodes[0].inputs[1:] == ("body.0.weight", "")
    np.testing.assert_array_equal(graph.constants["body.0.weight"].load().shape, (4, 3, 3, 3))


def test_in_place_operators_become_new_values():
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            z = y.relu_()
            return y + z

    graph = read(Module().eval(), image())
    last = graph.nodes[-1]
    assert last.inputs == ("relu_", "relu_")
