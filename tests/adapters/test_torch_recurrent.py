"""BatchNorm in front of recurrent layers and cells, and around a bilinear one: modules and exported programs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import bnfold
from bnfold.adapters.torch_audit import written_in
from bnfold.adapters.torch_capture import quietly
from bnfold.adapters.torch_program import fold_program
from bnfold.adapters.torch_shapes import KnownShapes
from bnfold.auditing import audit
from bnfold.plan import Kept
from bnfold.why import Why
from tests.adapters.torch_networks import image, randomised

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
FEATURES, HIDDEN, STEPS = 5, 4, 7
SHAPE = (3, FEATURES, STEPS)


class Sequence(nn.Module):
    """BatchNorm over the features of (N, C, L), then a recurrent layer over L, then a Linear."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.bn, self.layer = nn.BatchNorm1d(FEATURES), layer
        width = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn(x)
        y, state = self.layer(x.transpose(1, 2) if self.layer.batch_first else x.permute(2, 0, 1))
        return self.head(y), state[0]


class Cells(nn.Module):
    """Two steps of each kind of cell, on one BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(FEATURES)
        self.lstm, self.gru, self.rnn = (kind(FEATURES, HIDDEN) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.bn(x)
        first, second = x[:, :, 0], x[:, :, 1]
        lstm = self.lstm(second, self.lstm(first))
        return *lstm, self.gru(second, self.gru(first)), self.rnn(second, self.rnn(first))


class Twice(nn.Module):
    """One layer that is called twice, on one BatchNorm or on two."""

    def __init__(self, alike: bool) -> None:
        super().__init__()
        self.one, self.layer = nn.BatchNorm1d(FEATURES), nn.GRU(FEATURES, HIDDEN, batch_first=True)
        self.two = self.one if alike else nn.BatchNorm1d(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.one(x).transpose(1, 2), self.two(x.flip(2)).transpose(1, 2)
        return self.layer(first)[0] + self.layer(second)[0]


class Pair(nn.Module):
    """A Bilinear between affines: scales in front of it, a BatchNorm behind it."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm1d(FEATURES), nn.BatchNorm1d(HIDDEN)
        self.layer, self.behind = nn.Bilinear(FEATURES, HIDDEN, 3, bias=bias), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.behind(self.layer(self.one(x[:, :, 0]), self.two(x[:, :HIDDEN, 1]))))


def only_scaling(norm: nn.BatchNorm1d) -> None:
    with torch.no_grad():
        norm.bias.zero_()
        norm.running_mean.zero_()


def gap(module: nn.Module, other: nn.Module, x: Tensor) -> float:
    """The largest difference of any output, in float64."""
    with torch.no_grad():
        pairs = zip(flat(module.double()(x.double())), flat(other.double()(x.double())), strict=True)
        return max(float((one - two).abs().max()) for one, two in pairs)


def exported(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad(), quietly():
        return torch.export.export(module, (x,))


def flat(outputs: object) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
LAYERS = [
    *(pytest.param(kind, {}, id=name) for name, kind in KINDS.items()),
    *(pytest.param(kind, {"batch_first": True}, id=f"{name}, batch first") for name, kind in KINDS.items()),
    *(pytest.param(kind, {"bidirectional": True}, id=f"{name}, both ways") for name, kind in KINDS.items()),
    *(pytest.param(kind, {"num_layers": 2, "bidirectional": True}, id=f"{name}, deep") for name, kind in KINDS.items()),
    pytest.param(nn.RNN, {"nonlinearity": "relu"}, id="RNN, relu"),
    pytest.param(nn.LSTM, {"proj_size": 2, "num_layers": 2, "bidirectional": True}, id="LSTM, projected"),
    pytest.param(nn.LSTM, {"num_layers": 3, "dropout": 0.5}, id="LSTM, dropout"),
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_a_batch_norm_in_front_goes(kind: type[nn.RNNBase], options: dict[str, object]) -> None:
    module, x = randomised(Sequence(kind(FEATURES, HIDDEN, **options))), image(SHAPE)
    result = bnfold.fold(module, x)
    assert [outcome.affine for outcome in result.plan.folded] == ["bn"]
    assert isinstance(result.model.bn, nn.Identity)
    assert gap(module, result.model, x) < 1e-6
    assert not bnfold.fold(result.model.float(), x).plan.edits


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_an_exported_program(kind: type[nn.RNNBase], options: dict[str, object]) -> None:
    module, x = randomised(Sequence(kind(FEATURES, HIDDEN, **options))), image(SHAPE)
    program = exported(module, x)
    result = fold_program(program)
    assert len(result.plan.folded) == 1
    assert not any("batch_norm" in str(node.target) for node in result.model.graph.nodes)
    assert "layer.weight_ih_l0" in result.model.state_dict
    with torch.no_grad():
        for one, two in zip(program.module()(x), result.model.module()(x), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_without_biases_a_scale_goes_and_a_shift_stays(scaled: bool) -> None:
    module, x = randomised(Sequence(nn.LSTM(FEATURES, HIDDEN, bidirectional=True, bias=False))), image(SHAPE)
    if scaled:
        only_scaling(module.bn)
    program = exported(module, x)
    for result in (bnfold.fold(module, x), fold_program(program)):
        if scaled:
            assert len(result.plan.folded) == 1
        else:
            (kept,) = result.plan.kept
            assert Why.NO_BIAS in {reason.why for reason in kept.why}
    if scaled:
        assert gap(module, bnfold.fold(module, x).model, x) < 1e-6


def test_behind_a_recurrent_layer_it_goes_forward() -> None:
    class Behind(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.layer, self.bn = nn.GRU(FEATURES, HIDDEN, batch_first=True), nn.BatchNorm1d(HIDDEN)
            self.head = nn.Identity() if last else nn.Conv1d(HIDDEN, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.bn(self.layer(x.transpose(1, 2))[0].transpose(1, 2)))

    x = image(SHAPE)
    assert [item.into for item in bnfold.fold(randomised(Behind(False)), x).plan.folded] == [("head",)]
    (kept,) = bnfold.fold(randomised(Behind(True)), x).plan.outcomes
    assert isinstance(kept, Kept)
    assert {reason.why for reason in kept.why} == {Why.RECURRENT, Why.OUTPUT}


def test_cells() -> None:
    module, x = randomised(Cells()), image(SHAPE)
    result = bnfold.fold(module, x)
    assert [len(outcome.into) for outcome in result.plan.folded] == [6]
    assert gap(module, result.model, x) < 1e-6


@pytest.mark.parametrize("alike", [True, False])
def test_a_layer_that_is_called_twice(alike: bool) -> None:
    module, x = randomised(Twice(alike)), image(SHAPE)
    result = bnfold.fold(module, x)
    assert len(result.plan.folded) == (2 if alike else 1)  # of two, the other makes up for it
    assert gap(module, result.model, x) < 1e-6


def test_an_initial_state_that_a_batch_norm_gives_stays() -> None:
    class FromState(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.layer = nn.BatchNorm1d(HIDDEN), nn.RNN(FEATURES, HIDDEN, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.transpose(1, 2), self.bn(x[:, :HIDDEN, 0])[None])[0]

    (kept,) = bnfold.fold(randomised(FromState()), image(SHAPE)).plan.kept
    assert Why.RECURRENT in {reason.why for reason in kept.why}


def test_a_weight_that_is_the_recurrent_one_too_stays() -> None:
    class Tied(Sequence):
        def __init__(self) -> None:
            super().__init__(nn.RNN(FEATURES, FEATURES))
            self.layer.weight_hh_l0 = self.layer.weight_ih_l0

    module, x = randomised(Tied()), image(SHAPE)
    (kept,) = bnfold.fold(module, x).plan.kept
    assert Why.SHARED in {reason.why for reason in kept.why}


@pytest.mark.parametrize("bias", [True, False])
def test_bilinear(bias: bool) -> None:
    module, x = randomised(Pair(bias)), image(SHAPE)
    only_scaling(module.one)
    only_scaling(module.two)
    result = bnfold.fold(module, x)
    assert len(result.plan.folded) == 3
    assert result.model.layer.bias is not None
    assert gap(module, result.model, x) < 1e-6
    program = exported(module.float(), x)
    folded = fold_program(program)
    assert len(folded.plan.folded) == 3
    torch.testing.assert_close(folded.model.module()(x), program.module()(x), rtol=1e-5, atol=1e-6)


def test_bilinear_takes_no_shift() -> None:
    module = randomised(Pair())
    kept = bnfold.fold(module, image(SHAPE)).plan.kept
    assert [outcome.affine for outcome in kept] == ["one", "two"]
    assert all(Why.GATE in {reason.why for reason in outcome.why} for outcome in kept)


@pytest.mark.parametrize("path", ["layer.weight_ih_l0", "layer.bias_ih_l0_reverse"])
def test_the_audit_finds_a_number_that_is_wrong(path: str) -> None:
    module, x = randomised(Sequence(nn.LSTM(FEATURES, HIDDEN, bidirectional=True))), image(SHAPE)
    result = bnfold.fold(module, x)
    read = written_in(result.graph, result.model, {})
    assert all(row.passed for row in audit(result.graph, result.plan, read))
    with torch.no_grad():
        result.model.get_parameter(path)[3:4] *= 1 + 1e-6
    wrong = [row for row in audit(result.graph, result.plan, read) if not row.passed]
    assert [(row.node, row.index[0]) for row in wrong] == [("layer.lstm", 3)]


@pytest.mark.parametrize(("size", "why"), [(1e38, Why.OVERFLOW), (1e-38, Why.UNDERFLOW)])
def test_numbers_out_of_range_are_refused(size: float, why: Why) -> None:
    module = randomised(Sequence(nn.GRU(FEATURES, HIDDEN)))
    with torch.no_grad():
        module.layer.weight_ih_l0.mul_(100 if size > 1 else 0.001)
        module.bn.weight.mul_(size)
    (kept,) = bnfold.fold(module, image(SHAPE)).plan.kept
    assert why in {reason.why for reason in kept.why}


def test_weights_with_a_hook_stay() -> None:
    module = randomised(Sequence(nn.RNN(FEATURES, HIDDEN)))
    module.layer.register_forward_hook(lambda *_: None)
    (kept,) = bnfold.fold(module, image(SHAPE)).plan.kept
    assert Why.HOOKED in {reason.why for reason in kept.why}


def test_a_weight_that_is_computed_stays_until_it_is_baked() -> None:
    module, x = randomised(Sequence(nn.GRU(FEATURES, HIDDEN))), image(SHAPE)
    nn.utils.parametrizations.weight_norm(module.layer, "weight_ih_l0")
    (kept,) = bnfold.fold(module, x).plan.kept
    assert Why.PARAMETRIZED in {reason.why for reason in kept.why}
    result = bnfold.fold(module, x, bake=True)
    assert len(result.plan.folded) == 1
    assert gap(module, result.model, x) < 1e-6


def test_a_weight_that_another_layer_has_too_is_copied() -> None:
    module, x = randomised(Sequence(nn.RNN(FEATURES, FEATURES))), image(SHAPE)
    module.head = nn.Linear(FEATURES, FEATURES)
    module.head.weight = module.layer.weight_ih_l0
    result = bnfold.fold(module, x)
    assert len(result.plan.folded) == 1
    assert torch.equal(result.model.head.weight, module.head.weight)
    assert gap(module, result.model, x) < 1e-6


def test_a_file_of_a_folded_layer_is_read_back(tmp_path: Path) -> None:
    module, x = randomised(Sequence(nn.LSTM(FEATURES, HIDDEN, bidirectional=True))), image(SHAPE)
    torch.save(bnfold.fold(module, x).model.state_dict(), tmp_path / "folded.pt")
    other = Sequence(nn.LSTM(FEATURES, HIDDEN, bidirectional=True)).eval()
    other.bn = nn.Identity()
    other.load_state_dict(torch.load(tmp_path / "folded.pt", weights_only=True))
    assert gap(module, other, x) < 1e-6


def test_a_fold_in_place() -> None:
    module, x = randomised(Sequence(nn.GRU(FEATURES, HIDDEN, num_layers=2))), image(SHAPE)
    before = copy.deepcopy(module)
    assert bnfold.fold(module, x, inplace=True).model is module
    assert isinstance(module.bn, nn.Identity)
    assert gap(before, module, x) < 1e-6


class Remembered(TorchFunctionMode):
    """Gives what `KnownShapes` tells of every function."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return KnownShapes().call(func, args, kwargs or {})


class Counted(TorchDispatchMode):
    """Counts the operators that run."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4), (1, 5, 4), (5, 1, 4), (7, 6, 4)])
def test_two_steps_tell_the_shapes_of_all(kind: type[nn.RNNBase], batch_first: bool, shape: tuple[int, ...]) -> None:
    """Without numbers torch runs a recurrent layer step by step, which takes long."""
    with torch.device("meta"), torch.no_grad():
        layer = kind(4, 3, 2, batch_first=batch_first, bidirectional=True).eval()
        x = torch.empty(shape)
        wanted = pytree.tree_leaves(layer(x))
        with Remembered():
            got = pytree.tree_leaves(layer(x))
    told = [[(item.shape, item.stride(), item.dtype) for item in items] for items in (wanted, got)]
    assert told[0] == told[1]


def test_a_long_sequence_is_followed_as_soon_as_a_short_one() -> None:
    numbers = []
    for steps in (5, 50):
        with torch.device("meta"), torch.no_grad(), Counted() as counted, Remembered():
            nn.LSTM(4, 3)(torch.empty(steps, 2, 4))
        numbers.append(counted.number)
    assert numbers[0] == numbers[1]
