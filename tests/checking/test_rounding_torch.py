"""Right programs that round otherwise than the reference, where few numbers make up the error: none is called wrong."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bnfold import golden
from bnfold.checking import Verdict, check
from bnfold.checking.torch_executor import Executor
from bnfold.checking.torch_noise import NoiseMode, nudge
from bnfold.errors import BnfoldError
from tests.checking.building import Layer, Network

UNIT = 2.0**-24
SEEDS = (0, 1, 4, 10, 11, 45)
SHUT = torch.cat([torch.zeros(1500, 1), torch.linspace(0.5, 1.5, 1500)[:, None]]).double()
SHUT_MEAN, SHUT_VAR = float(SHUT.mean()), float(SHUT.var())
RISING = torch.linspace(0.5, 1.5, 3000, dtype=torch.float64)[:, None]


def drawn(module, seed):
    """Random numbers, no two channels alike."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


class Standardised(nn.Module):
    """A convolution, and its channels standardised; `by_parts`: as x s + (b - m s), as runtimes do."""

    def __init__(self, axes, by_parts):
        super().__init__()
        self.conv, self.axes, self.by_parts = nn.Conv2d(3, 5, 3), axes, by_parts
        self.gain, self.offset = nn.Parameter(torch.ones(1, 5, 1, 1)), nn.Parameter(torch.ones(1, 5, 1, 1))

    def forward(self, x):
        x = self.conv(x)
        mean = x.mean(self.axes, keepdim=True)
        scale = self.gain / ((x - mean).square().mean(self.axes, keepdim=True) + 1e-5).sqrt()
        if self.by_parts:
            return torch.relu(x * scale + (self.offset - mean * scale))
        return torch.relu((x - mean) * scale + self.offset)


class Inverse(nn.Module):
    """1 / conv(x): near a zero, one number makes up the whole error. `by_parts`: the sum in another order."""

    def __init__(self, by_parts):
        super().__init__()
        self.conv, self.by_parts = nn.Conv2d(3, 5, 3), by_parts

    def forward(self, x):
        if not self.by_parts:
            return 1 / self.conv(x)
        kernel = self.conv.weight.flip(1)
        parts = [nn.functional.conv2d(x.flip(1)[:, i : i + 1], kernel[:, i : i + 1]) for i in range(3)]
        return 1 / (sum(parts) + self.conv.bias[:, None, None])


class Gated(nn.Module):
    """Squeeze and excitation; `by_parts`: the sigmoid as half of 1 + tanh, right to a rounding of 1."""

    def __init__(self, by_parts):
        super().__init__()
        self.conv, self.gate, self.by_parts = nn.Conv2d(3, 6, 3), nn.Linear(6, 6), by_parts

    def forward(self, x):
        x = self.conv(x)
        gate = 4 * self.gate(x.mean((2, 3)))
        gate = 0.5 * (1 + torch.tanh(gate / 2)) if self.by_parts else torch.sigmoid(gate)
        return x * gate[:, :, None, None]


class Spectral(nn.Module):
    """A kernel over u W v, where all terms of a sum of both signs share one error; `by_parts`: W v in another order."""

    def __init__(self, by_parts):
        super().__init__()
        self.conv, self.by_parts = nn.Conv2d(3, 5, 3), by_parts
        self.u, self.v = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(27))

    def forward(self, x):
        matrix = self.conv.weight.flatten(1)
        norm = (self.u.flip(0) @ matrix.flip(0, 1)) @ self.v.flip(0) if self.by_parts else self.u @ (matrix @ self.v)
        return self.conv._conv_forward(x, self.conv.weight / norm, self.conv.bias)


FORMS = {
    "training batch norm": lambda by_parts: Standardised((0, 2, 3), by_parts),
    "instance norm": lambda by_parts: Standardised((2, 3), by_parts),
    "1 / conv": Inverse,
    "gate": Gated,
    "spectral norm": Spectral,
}


def pair(form, seed):
    plain, parts = (drawn(FORMS[form](by_parts), seed) for by_parts in (False, True))
    return plain, parts, 2 * torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def spoil(model):
    weight = model.conv.weight
    weight *= 1 + 2.0**-12 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("form", FORMS)
def test_another_formula_is_right(form):
    verdicts = []
    for seed in SEEDS:
        plain, parts, x = pair(form, seed)
        verdicts.append(check(plain, parts, (x,), localise=False, audit=()).verdict)
    assert verdicts == [Verdict.VERIFIED] * len(SEEDS)


@pytest.mark.parametrize("form", FORMS)
def test_another_formula_with_its_weights_off_is_different(form):
    for seed in SEEDS:
        plain, parts, x = pair(form, seed)
        spoil(parts)
        assert check(plain, parts, (x,), localise=False, audit=()).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("form", ["instance norm", "gate"])
def test_a_golden_file_knows_of_rounding_what_its_model_knew(form):
    plain, parts, x = pair(form, 1)
    recorded = golden.record(plain, (x,))
    assert golden.check(recorded, parts).passed
    spoil(parts)
    assert golden.check(recorded, parts).verdict is Verdict.DIFFERENT


def test_a_golden_file_of_an_arg_max():
    class Largest(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(7, 5)

        def forward(self, x):
            return self.linear(x).argmax(1)

    model, other = drawn(Largest(), 0), drawn(Largest(), 1)
    recorded = golden.record(model, (torch.randn(4, 7, generator=torch.Generator().manual_seed(0)),))
    assert golden.check(recorded, model).passed
    assert golden.check(recorded, other).verdict is Verdict.DIFFERENT


def test_a_golden_file_serves_a_candidate_of_one_batch_size():
    model, x = drawn(nn.Linear(7, 5), 0), torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    recorded = golden.record(model, (x,))
    layer = Layer("y", "Gemm", model.weight.double().numpy(), model.bias.double().numpy())
    candidate = Network("one", (7,), [layer], ("y",)).model()
    for batch, taken in ((3, 1), (4, 1), (5, 0)):
        candidate.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        if not taken:
            with pytest.raises(BnfoldError, match="takes none of the"):
                golden.check(recorded, candidate)
            continue
        result = golden.check(recorded, candidate)
        assert result.passed, result.reasons
        assert {shape for record in result.inputs for _, shape in record.shapes} == {(batch, 7)}


class Averaged(nn.Module):
    """The mean of a large image; `by_parts`: added up one by one in four lanes, as runtimes do in eight or more."""

    lanes = 4

    def __init__(self, by_parts):
        super().__init__()
        self.conv, self.by_parts = nn.Conv2d(3, 5, 1), by_parts

    def forward(self, x):
        x = torch.relu(self.conv(x)).flatten(2)
        return self.in_lanes(x) if self.by_parts else self.at_once(x)

    def at_once(self, x):
        return x.mean(2)

    def in_lanes(self, x):
        total = torch.zeros(self.lanes)
        for part in x.split(self.lanes, 2):
            total = total + part
        return total.sum(2) / x.shape[2]


class Varied(Averaged):
    """The variance of a large image; `by_parts`: the squares added up one by one in eight lanes, as runtimes do."""

    lanes = 8

    def at_once(self, x):
        return x.var(2, correction=0)

    def in_lanes(self, x):
        return super().in_lanes((x - x.mean(2, keepdim=True)).square())


@pytest.mark.parametrize(("kind", "size", "least"), [(Averaged, 96, 20), (Varied, 64, 1)])
def test_equal_numbers_round_alike(kind, size, least):
    """Of one colour each addition errs as the one before, and behind the square of one bright pixel by the same."""
    plain, parts = (drawn(kind(by_parts), 0) for by_parts in (False, True))
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    result = check(plain, parts, (x,), localise=False, audit=())
    assert result.passed, result.reasons
    assert result.runs[0].outputs[0].error_ratio > least
    spoil(parts)
    assert check(plain, parts, (x,), localise=False, audit=()).verdict is Verdict.DIFFERENT


def test_deep_standardisation_is_verified_on_the_inputs_that_tell():
    """Constant inputs have no variance: each layer multiplies what is rounded by up to 316, and the first rounds."""
    plain, parts = (
        drawn(nn.Sequential(*(layer for _ in range(3) for layer in (Standardised((2, 3), how), nn.Conv2d(5, 3, 1)))), 0)
        for how in (False, True)
    )
    x = 2 * torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    result = check(plain, parts, (x,), localise=False, audit=())
    assert result.passed, result.reasons
    (warning,) = result.warnings
    assert "tell nothing about output" in warning
    assert "constant/+" in warning
    spoil(parts[4])
    assert check(plain, parts, (x,), localise=False, audit=()).verdict is Verdict.DIFFERENT


def test_float16_that_overflows_a_rounding_earlier_is_no_difference_and_no_pass():
    """Of 65510, 65504 is as near as the infinity is; of 60000 it is not."""

    class Times(nn.Module):
        def __init__(self, factor, bound):
            super().__init__()
            self.factor, self.bound = nn.Parameter(torch.tensor([factor])), bound

        def forward(self, x):
            x = x * self.factor
            return x.masked_fill(x.abs() >= self.bound, torch.inf) if self.bound else x

    x = torch.linspace(-1, 1, 33)[:, None].half()
    x[-1] = 1
    options = {"only_given": True, "localise": False, "audit": ()}
    near = [Times(65504.0, bound).half().eval() for bound in (0, 65504.0)]
    result = check(*near, (x.abs(),), **options)
    assert result.verdict is Verdict.UNVERIFIED
    assert "a rounding away from float16's Inf" in result.reasons[0]
    far = [Times(60000.0, bound).half().eval() for bound in (0, 60000.0)]
    assert check(*far, (x.abs(),), **options).verdict is Verdict.DIFFERENT


class InPlace(nn.Module):
    """Writes through views of what it goes on with."""

    def forward(self, x):
        x = x * 2
        x[:, 0] += 1
        x.view(-1)[::3].mul_(3)
        return torch.nn.functional.silu(x, inplace=True).cumsum(1)


def test_noise_leaves_views_and_writing_in_place_as_they_are():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
    with NoiseMode(0.0, torch.Generator()):
        assert torch.equal(InPlace()(x), InPlace()(x.clone()))
    with NoiseMode(1e-6, torch.Generator().manual_seed(0)):
        moved = InPlace()(x)
    gap = (moved - InPlace()(x)).abs()
    assert (gap > 0).all()
    assert gap.max() < 1e-4


@pytest.mark.parametrize(
    ("run", "size"),
    [
        pytest.param(lambda x: x + x, 2.0, id="relative to the result"),
        pytest.param(lambda x: (x * RISING).mean(0), np.sqrt(3000 / 3), id="n like numbers"),
        pytest.param(lambda x: x.mean(0), 3000 / 16, id="n equal numbers"),
        pytest.param(lambda x: x.sum((0,)) / 3000, 3000 / 16, id="their sum"),
        pytest.param(lambda x: (x * SHUT).mean(0) / SHUT_MEAN, np.sqrt(3000 / 3), id="zeros err by nothing"),
        pytest.param(lambda x: (x * SHUT).var(0) / SHUT_VAR, 1500 / 16, id="but in a variance"),
        pytest.param(lambda x: torch.sigmoid(-40 * x), 1.0, id="a number of size 1"),
        pytest.param(lambda x: torch.nn.functional.silu(-40 * x), 40.0, id="one times x"),
        pytest.param(lambda x: torch.arange(12.0).double(), 0.0, id="made of no float"),
    ],
)
def test_how_far_a_result_is_moved(run, size):
    x = torch.ones(3000, 2, dtype=torch.float64)
    plain, found = run(x), []
    for seed in range(400):
        with NoiseMode(UNIT, torch.Generator().manual_seed(seed)):
            found.append((run(x) - plain).flatten()[0] / UNIT)
    largest = float(torch.stack(found).abs().max())
    assert largest == pytest.approx(size, rel=0.05)


def test_integers_are_never_moved():
    whole = torch.arange(3)
    assert nudge(whole, 1.0, torch.Generator()) is whole


def test_what_gives_a_size_is_not_moved():
    """A scale that was moved below 2 would lose a row."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[1,2,4,4] x) => (float[1,2,8,8] y)
        <float[2] one = {1.0, 1.0}, float[2] half = {1.0, 1.0}> {
            two = Add(half, one)
            k = Concat<axis=0>(one, two)
            z = Neg(x)
            y = Resize<mode = "nearest">(z, , k)
        }"""
    )
    executor, x = Executor(model), torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = executor.run({"x": x})["y"]
    for seed in range(8):
        moved = executor.nudged(UNIT, seed, throughout=True).run({"x": x})["y"]
        assert moved.shape == plain.shape
        assert 0 < float((moved - plain).abs().max()) <= 2 * UNIT * float(plain.abs().max())
