"""Modules that can't be folded, or not shown to be right: one line that says the true reason."""

from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import bnfold
from bnfold.adapters.torch_capture import arguments
from bnfold.adapters.torch_module import fold_module
from bnfold.adapters.torch_truth import outputs, require_same, truth
from bnfold.errors import BnfoldError, DifferentError, UnverifiedError
from bnfold.training.statistics import randomise_
from tests.adapters.torch_networks import conv_bn, image, randomised


class Autocast(nn.Module):
    """A block that torch.export keeps whole, and a norm that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.unused = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(7)
        self.after, self.read = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.norm(self.conv(x))
        norm = self.read
        x = F.batch_norm(x.float(), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return self.after(x)


def test_norms_that_the_graph_does_not_show_are_named() -> None:
    result = fold_module(randomised(Autocast()), image())
    (note,) = [note for note in result.notes if "not in the graph" in note]
    assert note.startswith("not in the graph: norm, unused; ")
    assert {outcome.affine for outcome in result.plan.outcomes} == {"batch_norm_1", "after"}


def test_a_network_whose_norms_are_all_shown_has_no_such_note() -> None:
    assert not any("not in the graph" in note for note in fold_module(randomised(conv_bn()), image()).notes)


class Random(nn.Module):
    """A dropout that nobody can turn off."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = conv_bn()

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layers(x))


def test_a_module_that_is_random_is_told() -> None:
    with pytest.raises(UnverifiedError, match="Random: gives other numbers in every run"):
        bnfold.fold(randomise_(Random(), 0).eval(), image())


class Fourier(nn.Module):
    """A layer in the frequencies, between two that fold; its spectrum is returned, too."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = conv_bn(padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.weight = nn.Parameter(torch.randn(4, 8, 5, dtype=torch.complex64, generator=torch.manual_seed(0)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.fft.rfft2(self.before(x)) * self.weight
        return self.after(torch.fft.irfft2(spectrum, s=(8, 8))), spectrum.conj()


def test_complex_numbers_are_held_to_their_truth() -> None:
    network = randomised(Fourier())
    folded = fold_module(network, image()).model
    assert [type(part).__name__ for part in (folded.before[1], folded.after[1])] == ["Identity", "Identity"]
    for before, after in zip(network(image(seed=2)), folded(image(seed=2)), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_a_fault_in_an_imaginary_part_is_found() -> None:
    network, given = randomised(Fourier()), arguments(image())
    right = outputs(network, given)
    wrong = [right[0], right[1] + torch.tensor([0.0, 1e-3])]
    require_same(truth(network, given), right, right, "it")
    with pytest.raises(DifferentError, match="it: output 1: error"):
        require_same(truth(network, given), right, wrong, "it")


def doubled_in_place(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[0] = x[0]
    return y.add_(x)


class Mapped(nn.Module):
    """Runs image by image, in a transform whose tensors have no memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inside, self.after = conv_bn(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.func.vmap(lambda one: self.inside(doubled_in_place(one)))(self.before(x))
        z: Tensor = self.after(y)
        return z


def test_layers_inside_of_vmap_stay_and_the_others_fold() -> None:
    network = randomised(Mapped())
    folded = fold_module(network, image()).model
    assert isinstance(folded.before[1], nn.Identity)
    torch.testing.assert_close(folded(image(seed=2)), network(image(seed=2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["", "0", "1"], ids=["all", "block", "conv"])
def test_a_forward_that_is_bound_to_the_original_folds_in_place(path: str) -> None:
    module = randomised(nn.Sequential(conv_bn(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    part = module.get_submodule(path)
    forward = part.forward
    part.forward = lambda x: forward(x).sigmoid()  # type: ignore[method-assign]
    before = module(image())
    with pytest.raises(BnfoldError, match=r"a copy of Sequential doesn't take its path, .*; pass inplace=True"):
        bnfold.fold(module, image())
    assert bnfold.fold(module, image(), inplace=True).plan.folded
    torch.testing.assert_close(module(image()), before, rtol=1e-4, atol=1e-4)


def compiled(_: fx.GraphModule, __: object) -> NoReturn:
    raise AssertionError("compiled")


class CompiledForward(nn.Module):
    """Compiles its forward by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = conv_bn()

    @torch.compile(backend=compiled)
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def compiled_in_place() -> nn.Module:
    layers = conv_bn()
    layers.compile(backend=compiled)
    return layers


@pytest.mark.parametrize(
    "network",
    [lambda: torch.compile(conv_bn(), backend=compiled), compiled_in_place, CompiledForward],
    ids=["torch.compile", "Module.compile", "forward"],
)
@pytest.mark.parametrize("bake", [False, True])
def test_what_torch_compile_made_folds_as_it_was_written(network: Callable[[], nn.Module], bake: bool) -> None:
    module = randomised(network())
    folded = fold_module(module, image(), bake=bake).model
    assert [type(part) for part in folded.modules() if isinstance(part, nn.BatchNorm2d)] == []
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(folded(image(seed=2)), module(image(seed=2)), rtol=1e-4, atol=1e-4)


class OnlyFloat32(nn.Module):
    """Has an operator that float64 can't run."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = conv_bn()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        if y.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return y


def test_a_module_that_does_not_run_in_float64_is_told() -> None:
    with pytest.raises(UnverifiedError, match=r"OnlyFloat32: doesn't run in float64 \(RuntimeError: expected scalar"):
        bnfold.fold(randomise_(OnlyFloat32(), 0).eval(), image())


def test_torchscript_is_refused_by_name() -> None:
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        scripted = torch.jit.script(randomised(conv_bn()))
    with pytest.raises(BnfoldError, match="a ScriptModule is TorchScript, which is deprecated"):
        bnfold.fold(scripted, image())
    with pytest.raises(BnfoldError, match=r"^0 is TorchScript, which is deprecated"):
        bnfold.fold(nn.Sequential(scripted, nn.BatchNorm2d(4)).eval(), image())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("inplace", [False, True])
def test_weights_that_are_no_numbers_are_not_called_an_overflow(number: float, inplace: bool) -> None:
    module = randomised(conv_bn())
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = number
    with pytest.raises(BnfoldError, match=r"0\.weight: holds NaN or infinities; repair it, or --skip"):
        bnfold.fold(module, image(), inplace=inplace)


def test_an_unknown_option_is_no_option() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    with pytest.raises(TypeError, match="has no option 'in_place'; it has level, only, skip, inplace"):
        bnfold.fold(model, torch.zeros(1, 3, 4, 4), in_place=True)


class Carrying(nn.BatchNorm2d):
    """A BatchNorm with a part of its own that runs after it."""

    def __init__(self, channels: int, part: nn.Module) -> None:
        super().__init__(channels)
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(super().forward(x))


@pytest.mark.parametrize(
    ("part", "folded"),
    [
        (nn.ReLU(), ["1"]),
        (nn.PReLU(4), ["1"]),
        (nn.Conv2d(4, 4, 1), []),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)), ["1.part.2"]),
        (Carrying(4, nn.ReLU()), ["1.part"]),
    ],
    ids=["relu", "prelu", "conv", "conv and BatchNorm", "another one"],
)
def test_a_batch_norm_stays_where_layers_run_inside_of_it(part: nn.Module, folded: list[str]) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), Carrying(4, part), nn.Conv2d(4, 2, 1)))
    result = bnfold.fold(model, image())
    assert [outcome.affine for outcome in result.plan.folded] == folded
    torch.testing.assert_close(result.model(image()), model(image()))
