"""Every silent wrong fold of other PyTorch tools that is known: here it is right, or it is refused for a reason."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from bnfold.adapters.torch_module import fold_module
from bnfold.adapters.torch_program import fold_program
from bnfold.errors import BnfoldError
from bnfold.plan import Plan
from bnfold.why import Why

# A right fold's largest error relative to the output's largest number; the faults here are 0.1 and more.
CLOSE = {torch.float64: 1e-9, torch.float32: 2e-6, torch.float16: 4e-3}


class Net(nn.Module):
    """Parts by name, and a function of them for the forward."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def drawn(module: nn.Module) -> nn.Module:
    """Random numbers in every parameter and statistic, no two channels alike, some gammas negative."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
        for norm in module.modules():
            if getattr(norm, "running_var", None) is not None:
                norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=draw))
                norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=draw))
                if getattr(norm, "weight", None) is not None:
                    size = 0.5 + torch.rand(norm.weight.shape, generator=draw)
                    norm.weight.copy_(size * torch.where(torch.arange(len(size)) % 3 == 1, -1, 1))
    return module.eval()


def inputs(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    return tuple(2 * torch.randn(shape, generator=draw) for shape in shapes)


IMAGE = (2, 4, 9, 9)


def outputs(module: Callable[..., Any], given: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        found = module(*given)
    return [found] if isinstance(found, Tensor) else list(found)


def require_truth(build: Callable[[], nn.Module], folded: Callable[..., Any], given: tuple[Tensor, ...]) -> None:
    """Hold outputs to those of the unfolded model in float64; `build` gives the same model each time."""
    truth = outputs(build().double(), tuple(x.double() for x in given))
    for got, wanted in zip(outputs(folded, given), truth, strict=True):
        assert got.shape == wanted.shape
        error = (got.double() - wanted).abs().max() / wanted.abs().max()
        assert error <= CLOSE[got.dtype], f"error {error:.2g}"


def said(plan: Plan) -> dict[str, set[Why]]:
    """Each affine by name: no reason where it is folded, else why it stays."""
    return {
        **{outcome.affine: set() for outcome in plan.folded},
        **{outcome.affine: {reason.why for reason in outcome.why} for outcome in plan.kept},
    }


def agrees(plan: Plan, wanted: dict[str, Why | None]) -> None:
    found = said(plan)
    assert set(found) == set(wanted)
    for name, why in wanted.items():
        assert (not found[name]) if why is None else why in found[name], f"{name}: {found[name]}"


def chain(*parts: nn.Module) -> Callable[[], nn.Module]:
    """Modules one after another; a fresh copy each time."""
    return lambda: drawn(nn.Sequential(*copy.deepcopy(parts), nn.ReLU()))


def net(run: Callable[..., Any], **parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A Net; a fresh one each time."""
    return lambda: drawn(Net(run, **{name: make() for name, make in parts.items()}))


def conv() -> nn.Module:
    return nn.Conv2d(4, 4, 3, padding=1)


def bn() -> nn.Module:
    return nn.BatchNorm2d(4)


class Stubborn(nn.BatchNorm2d):
    """Stays in training mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        super().train(True)
        return self


class NormAct(nn.BatchNorm2d):
    """A BatchNorm with an activation, as timm's BatchNormAct2d."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class NormThenAct(nn.BatchNorm2d):
    """The same, with the activation as a module: timm has it so."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        statistics = (self.running_mean, self.running_var)
        return self.act(F.batch_norm(x, *statistics, self.weight, self.bias, self.training, 0.1, self.eps))


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / self.weight.std((1, 2, 3), keepdim=True), self.bias)


class Late(nn.Module):
    """Registers its parts in another order than it calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2, self.conv1, self.bn1, self.conv2 = bn(), conv(), bn(), conv()

    def forward(self, x: Tensor) -> Any:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


def tied() -> nn.Module:
    module = nn.Sequential(conv(), bn(), nn.ReLU(), conv(), bn())
    module[3].weight = module[0].weight
    return drawn(module)


def with_other_eps() -> nn.Module:
    module = nn.Sequential(conv(), nn.BatchNorm2d(4, eps=0.5), nn.ReLU())
    return drawn(module)


def small_eps() -> nn.Module:
    """Eps is 0 in float16, and so is a variance: its channel's s is 1e4 times gamma."""
    module = drawn(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, eps=1e-8)))
    with torch.no_grad():
        module[1].weight.mul_(0.01)
        module[1].running_var[2] = 0
    return module.half()


def hooked(index: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = chain(conv(), bn())()
        module[index].register_forward_hook(lambda part, given, output: 2 * output)
        return module

    return build


def twice(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.relu(m.bn(m.conv(x))) + m.conv(y)


TWO_EPS = net(
    lambda m, x: F.relu(torch.cat([m.bn1(m.one(x)), m.bn2(m.two(x))], 1)),
    one=conv,
    two=conv,
    bn1=lambda: nn.BatchNorm2d(4, eps=0.5),
    bn2=lambda: nn.BatchNorm2d(4, eps=1e-3),
)
MODULES = [
    pytest.param(chain(nn.ConvTranspose2d(4, 4, 3), bn()), (IMAGE,), {"1": None}, id="transposed, in == out"),
    pytest.param(chain(nn.ConvTranspose2d(4, 4, 3, groups=2), bn()), (IMAGE,), {"1": None}, id="transposed, groups"),
    pytest.param(chain(nn.ConvTranspose2d(4, 4, 3, groups=4), bn()), (IMAGE,), {"1": None}, id="transposed, depthwise"),
    pytest.param(
        net(lambda m, x: m.bn(m.conv(x)) * F.relu(m.conv(x).abs()), conv=conv, bn=bn),
        (IMAGE,),
        {"bn": Why.REPEATED},
        id="conv called twice on the same tensor",
    ),
    pytest.param(
        net(lambda m, x: (lambda c: m.bn(c) + F.relu(c))(m.conv(x)), conv=conv, bn=bn),
        (IMAGE,),
        {"bn": Why.OUTPUT},
        id="conv with a second consumer",
    ),
    pytest.param(
        net(lambda m, x: (lambda c: (c, F.relu(m.bn(c))))(m.conv(x)), conv=conv, bn=bn),
        (IMAGE,),
        {"bn": Why.OUTPUT},
        id="conv that is an output",
    ),
    pytest.param(
        net(lambda m, x: (lambda c: (c, F.relu(c)))(m.bn(m.conv(x))), conv=conv, bn=bn),
        (IMAGE,),
        {"bn": None},
        id="bn that is an output",
    ),
    pytest.param(chain(conv(), bn(), bn()), (IMAGE,), {"1": None, "2": None}, id="conv, bn, bn"),
    pytest.param(
        net(lambda m, x: (lambda c: (m.bn1(c), m.bn2(c)))(m.conv(x)), conv=conv, bn1=bn, bn2=bn),
        (IMAGE,),
        {"bn1": None, "bn2": Why.OUTPUT},
        id="two bns on one conv",
    ),
    pytest.param(net(twice, conv=conv, bn=bn), (IMAGE, IMAGE), {"bn": Why.REPEATED}, id="bn after one of two calls"),
    pytest.param(tied, (IMAGE,), {"1": None, "4": None}, id="tied weights"),
    pytest.param(chain(conv(), Stubborn(4)), (IMAGE,), {"1.batch_norm": Why.TRAINING}, id="bn in training mode"),
    pytest.param(
        chain(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        (IMAGE,),
        {"1": Why.NO_STATISTICS},
        id="bn without statistics",
    ),
    pytest.param(
        chain(nn.Linear(5, 5), nn.BatchNorm1d(5)), ((3, 5, 5),), {"1": Why.AXIS}, id="linear over L, bn over C, L == C"
    ),
    pytest.param(
        chain(nn.BatchNorm1d(5), nn.Linear(5, 5)), ((3, 5, 5),), {"0": Why.AXIS}, id="bn over C, linear over L, L == C"
    ),
    pytest.param(hooked(0), (IMAGE,), {"0.mul": Why.HOOKED, "1": Why.HOOKED}, id="hook on the conv"),
    pytest.param(hooked(1), (IMAGE,), {"1.batch_norm": Why.HOOKED, "1.mul": Why.HOOKED}, id="hook on the bn"),
    pytest.param(small_eps, (IMAGE,), {"1": None}, id="float16, eps 1e-8"),
    pytest.param(
        chain(conv(), NormAct(4), conv()), (IMAGE,), {"1.batch_norm": Why.SUBCLASS}, id="bn subclass with a forward"
    ),
    pytest.param(chain(conv(), NormThenAct(4), conv()), (IMAGE,), {"1": None}, id="bn subclass that calls its own act"),
    pytest.param(chain(Standardised(4, 4, 3), bn()), (IMAGE,), {"1": Why.COMPUTED}, id="weight standardisation"),
    pytest.param(chain(bn(), conv()), (IMAGE,), {"0": Why.PADDING}, id="bn before a padded conv"),
    pytest.param(chain(conv(), nn.BatchNorm2d(4, affine=False)), (IMAGE,), {"1": None}, id="bn without gamma, conv"),
    pytest.param(chain(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False)), ((3, 5),), {"1": None}, id="and linear"),
    pytest.param(with_other_eps, (IMAGE,), {"1": None}, id="conv with a bias, an eps that matters"),
    pytest.param(TWO_EPS, (IMAGE,), {"bn1": None, "bn2": None}, id="two eps behind a concat"),
    pytest.param(lambda: drawn(Late()), (IMAGE,), {"bn1": None, "bn2": None}, id="registered in another order"),
    pytest.param(
        net(
            lambda m, x: m.bn(m.norm(m.free(x))) * m.fine(m.conv(x)),
            free=conv,
            norm=lambda: nn.BatchNorm2d(4, track_running_stats=False),
            bn=bn,
            conv=conv,
            fine=bn,
        ),
        (IMAGE,),
        {"norm": Why.NO_STATISTICS, "bn": Why.COMPUTED, "fine": None},
        id="a pair that can't be folded beside one that can",
    ),
]


@pytest.mark.parametrize(("build", "shapes", "wanted"), MODULES)
def test_modules(build: Callable[[], nn.Module], shapes: Any, wanted: dict[str, Why | None]) -> None:
    module = build()
    given = tuple(x.to(next(module.parameters()).dtype) for x in inputs(*shapes))
    result = fold_module(module, given)
    agrees(result.plan, wanted)
    require_truth(build, result.model, given)


def parametrized(wrap: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)  # spectral_norm draws its vectors, prune looks at the weight
        module = nn.Sequential(conv(), bn(), nn.ReLU())
        wrap(module[0])
        return drawn(module)

    return build


WRAPPED = [
    pytest.param(parametrizations.weight_norm, id="weight_norm"),
    pytest.param(parametrizations.spectral_norm, id="spectral_norm"),
    pytest.param(lambda part: prune.l1_unstructured(part, "weight", 0.5), id="prune"),
    pytest.param(weight_norm, id="weight_norm as a hook", marks=pytest.mark.filterwarnings("ignore:.*weight_norm")),
    pytest.param(spectral_norm, id="spectral_norm as a hook", marks=pytest.mark.filterwarnings("ignore:.*spectral")),
]


@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_parametrized_weight_stays_unless_it_is_baked(wrap: Callable[[nn.Module], Any]) -> None:
    build, given = parametrized(wrap), inputs(IMAGE)
    kept = fold_module(build(), given)
    agrees(kept.plan, {"1": Why.PARAMETRIZED})
    require_truth(build, kept.model, given)
    baked = fold_module(build(), given, bake=True)
    agrees(baked.plan, {"1": None})
    require_truth(build, baked.model, given)


def added(m: Any, x: Tensor) -> Tensor:
    return F.relu(torch.add(m.conv(x), m.shift.weight.reshape(1, 4, 1, 1), alpha=2))


SCALE = {"conv": conv, "shift": lambda: nn.Linear(1, 4, bias=False)}
PROGRAMS = [
    pytest.param(net(added, **SCALE), (IMAGE,), {"add": None}, id="torch.add with alpha"),
    pytest.param(
        lambda: net(lambda m, x: m.shift.weight.reshape(1, 4, 1, 1) / m.conv(x), **SCALE)().double(),
        (IMAGE,),
        {},
        id="constant divided by conv",
    ),
    pytest.param(chain(conv(), bn(), bn()), (IMAGE,), {"1": None, "2": None}, id="conv, bn, bn"),
    pytest.param(net(twice, conv=conv, bn=bn), (IMAGE, IMAGE), {"bn": None}, id="bn after one of two calls"),
    pytest.param(tied, (IMAGE,), {"1": None, "4": None}, id="tied weights"),
    pytest.param(hooked(0), (IMAGE,), {"0.mul": None, "1": None}, id="hook on the conv"),
    pytest.param(chain(Standardised(4, 4, 3), bn()), (IMAGE,), {"1": None}, id="weight standardisation"),
    pytest.param(
        chain(nn.Linear(5, 5), nn.BatchNorm1d(5)), ((3, 5, 5),), {"1": Why.AXIS}, id="linear over L, bn over C, L == C"
    ),
    pytest.param(
        chain(conv(), Stubborn(4)),
        (IMAGE,),
        {"1._native_batch_norm_legit_functional": Why.TRAINING},
        id="bn in training mode",
    ),
]


@pytest.mark.parametrize(("build", "shapes", "wanted"), PROGRAMS)
def test_programs(build: Callable[[], nn.Module], shapes: Any, wanted: dict[str, Why | None]) -> None:
    module = build()
    given = tuple(x.to(next(module.parameters()).dtype) for x in inputs(*shapes))
    with torch.no_grad():
        result = fold_program(torch.export.export(module, given))
    agrees(result.plan, wanted)
    require_truth(build, result.model.module(), given)


def test_a_forward_that_asks_the_data_is_refused_in_words() -> None:
    build = net(lambda m, x: m.bn(m.conv(x)) if x.sum() > 0 else x, conv=conv, bn=bn)
    with pytest.raises(BnfoldError, match="can't follow"):
        fold_module(build(), inputs(IMAGE))


def test_half_keeps_the_accuracy_of_float64() -> None:
    """Eps is 0 in float16: folding there gives infinity; the weights are float64's, each at one of its neighbours."""
    folded = fold_module(small_eps(), tuple(x.half() for x in inputs(IMAGE))).model
    before = small_eps().double()
    scale = before[1].weight / torch.sqrt(before[1].running_var + 1e-8)
    exact = before[0].weight * scale.reshape(4, 1, 1, 1)
    assert torch.all((folded[0].weight.double() - exact).abs() <= exact.abs() * torch.finfo(torch.float16).eps)


def test_a_fault_would_be_seen() -> None:
    build, given = chain(conv(), bn()), inputs(IMAGE)
    folded = fold_module(build(), given).model
    with torch.no_grad():
        folded[0].bias[3] += 1e-3
    with pytest.raises(AssertionError, match="error"):
        require_truth(build, folded, given)
