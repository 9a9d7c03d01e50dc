"""Folds of exported programs: everything that a graph can lose, with symbols for lengths that may change."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import bnfold
from bnfold.adapters.torch_capture import quietly
from bnfold.adapters.torch_program import fold_program
from bnfold.errors import BnfoldError, DifferentError
from bnfold.models import ARCHITECTURES, create
from bnfold.plan import Merge, Plan, ScaleWeight
from bnfold.training.statistics import randomise_
from bnfold.why import Why
from tests.adapters.torch_networks import conv_bn, image, randomised

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def exported(module: nn.Module, x: Tensor, dynamic: bool = True) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module, (x,), dynamic_shapes=({0: Dim.AUTO},) if dynamic else None)


def run(program: ExportedProgram, x: Tensor) -> Tensor:
    with torch.no_grad():
        return program.module()(x)


def calls(program: ExportedProgram, name: str) -> int:
    return sum(name in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("name", ["lenet_scratch", "preact_resnet", "densenet", "mobilenet", "repvgg", "autoencoder"])
def test_networks_with_a_batch_of_any_size(name, level, tmp_path):
    module = randomise_(create(name), 0, negative=True).eval()
    x = image((2, *ARCHITECTURES[name].input_shape))
    program = exported(module, x)
    result = fold_program(program, level=level)
    assert calls(result.model, "batch_norm") == len(result.plan.kept)
    many = torch.cat([x, x, x])
    torch.testing.assert_close(run(result.model, many), run(program, many), rtol=1e-4, atol=1e-5)
    torch.export.save(result.model, tmp_path / "folded.pt2")
    again = bnfold.load(tmp_path / "folded.pt2")
    with torch.no_grad():
        torch.testing.assert_close(again(many), run(result.model, many))


class Idle(nn.Module):
    """A ReLU that nobody reads, which a shift couldn't pass; or one that a check of the program's needs."""

    def __init__(self, checked: bool) -> None:
        super().__init__()
        self.bn, self.conv, self.checked = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), checked

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        y = torch.relu(x)
        if self.checked:
            torch._assert_async((y >= 0).all())
        return self.conv(x)


@pytest.mark.parametrize("checked", [False, True])
def test_what_nobody_reads_holds_nothing(checked):
    program = exported(randomised(Idle(checked)), image((2, 3, 6, 6)))
    assert calls(program, "relu") == 1
    result = fold_program(program)
    assert len(result.plan.kept) == checked
    assert calls(result.model, "relu") == checked
    torch.testing.assert_close(run(result.model, x := image((2, 3, 6, 6))), run(program, x), rtol=1e-4, atol=1e-5)
    assert not fold_program(result.model).plan.folded


def test_parallel_branches_become_one_convolution():
    module = randomise_(create("repvgg"), 0).eval()
    program = exported(module, image((2, 1, 28, 28)))
    result = fold_program(program)
    merges = [edit for edit in result.plan.edits if isinstance(edit, Merge)]
    assert len(merges) == 6
    assert calls(result.model, "conv2d") == 6
    assert calls(fold_program(program, merge=False).model, "conv2d") == 12


class Branches(nn.Module):
    """x + conv(x) + another(x); of an even kernel, padding "same" puts the odd zero behind."""

    def __init__(self, kernel: int, dilation: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 3, kernel, padding="same", dilation=dilation) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.one(x) + self.two(x) + x)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 2), (5, 3), (2, 1), (4, 3)])
def test_branches_that_are_padded_to_the_same_size(kernel, dilation):
    program = exported(Branches(kernel, dilation).eval(), x := torch.randn(2, 3, 15, 17))
    result = fold_program(program)
    torch.testing.assert_close(run(result.model, x), run(program, x), rtol=1e-4, atol=1e-5)
    if kernel % 2:
        assert calls(result.model, "conv2d") == 1


class Alone(nn.Module):
    """One image without a batch axis, as high and wide as it has channels: the rules' axis 1 has its rows."""

    def __init__(self, layer: nn.Module, factor: Tensor) -> None:
        super().__init__()
        self.rows, self.layer = nn.Parameter(torch.randn(4, 4)), layer
        self.factor, self.shift = nn.Parameter(factor), nn.Parameter(torch.randn(factor.shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(self.rows @ x) * self.factor + self.shift)


ALONE = [
    pytest.param(nn.Conv2d(4, 4, 3, padding=1), id="conv"),
    pytest.param(nn.ConvTranspose2d(4, 4, 3, padding=1), id="transposed conv"),
    pytest.param(nn.MaxPool2d(3, 1, 1), id="max pool"),
    pytest.param(nn.AvgPool2d(3, 1, 1, count_include_pad=False), id="avg pool"),
    pytest.param(nn.AdaptiveAvgPool2d((2, 4)), id="adaptive pool"),
]


@pytest.mark.parametrize("layer", ALONE)
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 1), (4,)], ids=["channels", "one", "columns"])
def test_an_image_without_a_batch(layer, shape):
    program = exported(Alone(layer, torch.rand(shape) + 0.5).eval(), x := torch.randn(4, 4, 4), dynamic=False)
    result = fold_program(program)
    torch.testing.assert_close(run(result.model, x), run(program, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [*ALONE[:4], pytest.param(nn.AdaptiveMaxPool2d(4), id="adaptive max pool")])
def test_rows_of_an_image_without_a_batch_are_no_channels(layer):
    factor = torch.rand(4, 1) + 0.5
    program = exported(Alone(layer, factor).eval(), x := torch.randn(4, 4, 4), dynamic=False)
    result = fold_program(program)
    torch.testing.assert_close(run(result.model, x), run(program, x), rtol=1e-4, atol=1e-5)
    assert result.plan.folded == ()


class Scaled(nn.Module):
    """BatchNorm before a product with factors of its own: the shift is multiplied by alpha."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.right, self.bias = (
            nn.BatchNorm1d(4),
            nn.Parameter(torch.randn(4, 5)),
            nn.Parameter(torch.ones(5)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.norm(x), self.right, beta=0.5, alpha=2.0)


def test_a_shift_goes_through_alpha_into_a_bias():
    program = exported(randomised(Scaled()), x := torch.randn(3, 4), dynamic=False)
    result = fold_program(program)
    assert [outcome.affine for outcome in result.plan.folded] == [outcome.affine for outcome in result.plan.outcomes]
    torch.testing.assert_close(run(result.model, x), run(program, x), rtol=1e-4, atol=1e-5)


def test_the_argument_stays_as_it_is():
    program = exported(randomised(conv_bn()), image())
    state = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    code = str(program.graph)
    fold_program(program)
    assert str(program.graph) == code
    assert all(torch.equal(tensor, program.state_dict[name]) for name, tensor in state.items())


class Products(nn.Module):
    """Weights without layers, in every form of product."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 4))
        self.bias = nn.Parameter(torch.randn(4))
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm1d(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x @ self.left.t()).sigmoid()
        y = self.norm2(torch.addmm(self.bias, y, self.right, beta=0.5, alpha=2.0)).sigmoid()
        return self.norm3(y.matmul(self.right) + self.bias).sigmoid()


def test_products_with_shared_weights():
    program = exported(randomised(Products()), image((5, 3)), dynamic=False)
    result = fold_program(program)
    assert len(result.plan.folded) == 3
    torch.testing.assert_close(run(result.model, image((5, 3))), run(program, image((5, 3))), rtol=1e-4, atol=1e-5)


def test_computed_weights_fold_in_a_graph():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    program = exported(randomised(nn.Sequential(layer, nn.BatchNorm2d(4))), image(), dynamic=False)
    result = fold_program(program)
    assert calls(result.model, "batch_norm") == 0
    torch.testing.assert_close(run(result.model, image()), run(program, image()), rtol=1e-4, atol=1e-5)


class Normed(nn.Module):
    """Scales by the norm of a single number, which is positive whatever the number is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.number = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Parameter(torch.tensor(-2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x) * torch.linalg.vector_norm(self.number))


def test_a_constant_is_computed_by_every_operator_but_casts():
    program = exported(randomised(Normed()), image())
    result = fold_program(program)
    assert not result.plan.kept
    torch.testing.assert_close(run(result.model, image()), run(program, image()), rtol=1e-4, atol=1e-5)


def test_a_norm_that_is_the_output():
    program = exported(randomised(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))), image())
    result = fold_program(program)
    assert [spec.arg.name for spec in result.model.graph_signature.output_specs] == ["conv2d"]
    torch.testing.assert_close(run(result.model, image()), run(program, image()), rtol=1e-4, atol=1e-5)


def test_a_wrong_plan_is_found():
    program = exported(randomised(conv_bn()), image())
    plan = fold_program(program, dry_run=True).plan
    edits = tuple(
        ScaleWeight(edit.node, edit.out_factor * 1.001, edit.in_factor) if isinstance(edit, ScaleWeight) else edit
        for edit in plan.edits
    )
    with pytest.raises(DifferentError):
        fold_program(program, plan=Plan(plan.outcomes, edits, plan.frames))


def test_a_plan_of_another_model_is_refused():
    plan = fold_program(exported(randomised(conv_bn()), image()), dry_run=True).plan
    other = exported(randomised(nn.Sequential(nn.Sequential(conv_bn()))), image())
    with pytest.raises(BnfoldError, match=r"make the plan anew"):
        fold_program(other, plan=plan)


def test_a_program_s_file(tmp_path: Path):
    program = exported(randomised(conv_bn()), image())
    torch.export.save(program, tmp_path / "model.pt2")
    result = bnfold.fold(tmp_path / "model.pt2")
    assert result.model == tmp_path / "model.folded.pt2"
    assert bnfold.export(tmp_path / "model.pt2", None, tmp_path / "model.onnx").check.passed
    with pytest.raises(BnfoldError, match=r"choose \.pt2 or \.onnx"):
        bnfold.fold(tmp_path / "model.pt2", output=tmp_path / "model.safetensors")


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_norm_in_training_mode_is_told(decomposed: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    randomised(module)[1].train()
    program = torch.export.export(module, (image(),))
    with quietly():
        program = program.run_decompositions({}) if decomposed else program
    result = bnfold.fold(program)
    assert [(kept.why[0].why, kept.affine.startswith("1.")) for kept in result.plan.kept] == [(Why.TRAINING, True)]
    assert [folded.affine for folded in result.plan.folded] == ["3"]
    buffers = [spec.target for spec in result.model.graph_signature.output_specs if spec.target]
    assert "1.running_mean" in buffers
    torch.testing.assert_close(result.model.module()(image()), program.module()(image()), rtol=1e-4, atol=1e-5)


def test_weights_keep_their_names_and_their_order():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    folded = fold_program(exported(randomised(module), image())).model
    assert list(folded.state_dict) == ["0.weight", "0.bias", "3.weight", "3.bias"]


class Towers(nn.Module):
    """Shared layers on two inputs; `head` is behind one of them only. bias: whether the shared layer has one."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4)
        self.head = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(self.conv(x)), self.head(self.norm(self.conv(x.flip(2))))


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_that_is_called_twice_keeps_one_weight_where_the_calls_want_the_same(bias):
    both = randomised(Towers(bias))
    both.head = nn.Identity()
    folded = fold_program(exported(both, image())).model
    assert list(folded.state_dict) == ["conv.weight", "conv.bias"]
    assert calls(folded, "conv2d") == 2


def test_calls_that_want_other_numbers_get_weights_of_their_own():
    folded = fold_program(exported(randomised(Towers(True)), image())).model
    assert sorted(folded.state_dict) == ["conv.bias", "conv.weight", "conv_1.bias", "conv_1.weight"]
    assert calls(folded, "batch_norm") == 0
