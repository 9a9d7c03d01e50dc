"""bnfold export, as a user calls it."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

import bnfold
from bnfold.commands import group
from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES, create
from bnfold.training.checkpoint import Checkpoint
from bnfold.training.statistics import randomise_

torch.set_num_threads(1)


def save(name: str, path: Path) -> Path:
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    module = randomise_(create(name), 0, negative=True).eval()
    arguments = dict(architecture.arguments)
    Checkpoint(name, arguments, module.state_dict(), architecture.input_shape, (0.5,), (0.25,)).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("convnet", tmp_path_factory.mktemp("export") / "model.pt")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(group, ["export", *map(str, arguments)], catch_exceptions=False)


def operators(path: Path) -> list[str]:
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    return [node.op_type for node in proto.graph.node]


def test_the_file_is_folded_verified_and_says_where_it_comes_from(model, tmp_path):
    result = invoke(model, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0
    assert "verified against the PyTorch model" in result.output
    assert "BatchNormalization" not in operators(tmp_path / "out.onnx")
    proto = onnx.load(tmp_path / "out.onnx")
    told = {item.key: item.value for item in proto.metadata_props}
    assert {"bnfold.version", "bnfold.plan_sha256", "bnfold.source_sha256"} <= set(told)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(tmp_path.parent).encode() not in proto.SerializeToString()


def test_no_fold_keeps_every_norm_as_a_node(tmp_path):
    path = save("resnet", tmp_path / "model.pt")
    assert invoke(path, "--no-fold").exit_code == 0
    kinds = operators(tmp_path / "model.onnx")
    assert kinds.count("BatchNormalization") == 15
    assert not {"Expand", "CastLike"} & set(kinds)  # the exporter's zero biases
    convs = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Conv"]
    assert all(len(node.input) == 2 for node in convs)


def test_what_is_skipped_is_not_folded_by_the_exporter(model, tmp_path):
    assert invoke(model, "-o", tmp_path / "out.onnx", "--skip", "*1.1").exit_code == 0
    assert operators(tmp_path / "out.onnx").count("BatchNormalization") == 1


def test_a_pattern_that_matches_nothing_is_a_mistake(model, tmp_path):
    with pytest.raises(BnfoldError, match=r"no BatchNorm or other affine matches 'nothing\*'; they are layer1.1, "):
        invoke(model, "-o", tmp_path / "out.onnx", "--skip", "nothing*")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_an_adaptive_max_pooling_to_one_number_is_a_maximum(spatial, tmp_path):
    conv, norm, pool = (getattr(nn, f"{name}{spatial}d") for name in ("Conv", "BatchNorm", "AdaptiveMaxPool"))
    torch.manual_seed(0)
    module = nn.Sequential(conv(3, 4, 3), norm(4), nn.ReLU(), pool(1), nn.Flatten()).eval()
    result = bnfold.export(module, torch.randn(2, 3, *[6] * spatial), tmp_path / "model.onnx")
    assert (str(result.check.verdict), len(result.fold.plan.folded)) == ("verified", 1)


class Normalised(nn.Module):
    """Input normalisation in front of a padded convolution: it stays, as one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv((x / 255 - self.mean) / self.deviation)


def test_arithmetic_that_stays_is_one_operator(tmp_path):
    torch.manual_seed(0)
    result = bnfold.export(Normalised().eval(), 255 * torch.rand(2, 3, 8, 8), tmp_path / "model.onnx")
    assert operators(tmp_path / "model.onnx") == ["BatchNormalization", "Conv"]
    assert str(result.check.verdict) == "verified"


def test_no_batch_norm_is_put_where_the_target_has_no_kernel(tmp_path):
    torch.manual_seed(0)
    bnfold.export(Normalised().eval(), 255 * torch.rand(2, 3, 8, 8), tmp_path / "model.onnx", level="max")
    assert operators(tmp_path / "model.onnx") == ["Mul", "Add", "Conv"]


def test_names_axes_and_opset(tmp_path):
    path = save("resnet", tmp_path / "model.pt")
    done = invoke(
        path, "--dynamic", "0=n,2=h,3=w", "--input-names", "image", "--output-names", "logits", "--opset", "18"
    )
    assert done.exit_code == 0
    proto = onnx.load(tmp_path / "model.onnx")
    (image,), (logits,) = proto.graph.input, proto.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["n", 1, "h", "w"]
    assert logits.type.tensor_type.shape.dim[0].dim_param == "n"
    assert proto.opset_import[0].version == 18


@pytest.mark.parametrize("opset", [15, 17, 22])
def test_the_opset_is_the_one_that_was_asked_for(model, tmp_path, opset):
    """The exporter itself has none below 18, and leaves that without a word."""
    assert invoke(model, "-o", tmp_path / "out.onnx", "--opset", opset).exit_code == 0
    proto = onnx.load(tmp_path / "out.onnx")
    assert proto.opset_import[0].version == opset
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--opset", "7"), "--opset 7: can't be written"),
        (("--opset", "200"), "--opset 200: can't be written"),
        (("--input-names", "a,b"), "input names: got 2 (a, b); the model has 1"),
        (("--output-names", "a,b,c"), "output names: got 3 (a, b, c); the model has 1"),
    ],
)
def test_what_cannot_be_is_refused(model, tmp_path, arguments, message):
    with pytest.raises(BnfoldError, match=re.escape(message)):
        invoke(model, "-o", tmp_path / "out.onnx", *arguments)
    assert not (tmp_path / "out.onnx").exists()


def test_fixed_sizes(model, tmp_path):
    assert invoke(model, "-o", tmp_path / "out.onnx", "--dynamic", "none").exit_code == 0
    shape = onnx.load(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 1, 28, 28]


def test_json(model, tmp_path):
    result = invoke(model, "-o", tmp_path / "out.onnx", "--json")
    told = json.loads(result.stdout)
    assert told["format"] == "bnfold.export"
    assert told["check"]["verdict"] == "verified"
    assert told["fold"]["outcomes"]
    assert (told["fold"]["model"], told["fold"]["output"]) == (str(model), told["output"])
    assert (told["fold"]["level"], told["fold"]["dry_run"]) == ("default", False)


def test_onnxsim_on_top(model, tmp_path):
    assert invoke(model, "-o", tmp_path / "out.onnx", "--simplify").exit_code == 0
    assert "BatchNormalization" not in operators(tmp_path / "out.onnx")


def test_an_npz_of_inputs_and_two_inputs(tmp_path):
    code = (
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.bn = nn.Linear(3, 4), nn.BatchNorm1d(4)\n"
        "    def forward(self, left, right):\n"
        "        return self.bn(self.a(left)).relu() + right\n"
    )
    (tmp_path / "net.py").write_text(code)
    space: dict[str, type[torch.nn.Module]] = {}
    exec(code, space)
    torch.save(space["Net"]().state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "x.npz", left=np.ones((5, 3), np.float32), right=np.ones((5, 4), np.float32))
    done = invoke(tmp_path / "model.pt", "--arch", f"{tmp_path}/net.py:Net", "--inputs", tmp_path / "x.npz")
    assert done.exit_code == 0, done.output
    assert [item.name for item in onnx.load(tmp_path / "model.onnx").graph.input] == ["left", "right"]


ERRORS = [
    (["--dynamic", "batch"], "wanted AXIS=NAME"),
    (["--dynamic", "1=c"], "the forward needs these lengths as they are"),
    (["--dynamic", "4=d"], "--dynamic 4=d: no input has an axis 4; the last one is 3"),
    (["--input", "2x3x28x28"], "doesn't take these inputs"),
    (["--level", "most"], "most"),
    (["--plan", "no-such-plan.json"], "no-such-plan.json"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_bad_requests_leave_the_old_file(model, tmp_path, options, message):
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")
    try:
        result = invoke(model, "-o", target, *options)
    except BnfoldError as error:
        assert message in str(error)  # noqa: PT017 - click's own errors don't raise
    else:
        assert result.exit_code == 2
        assert message in result.output
    assert target.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["out.onnx"]


def test_onnx_is_refused(model, tmp_path):
    invoke(model, "-o", tmp_path / "out.onnx")
    with pytest.raises(BnfoldError, match="is ONNX already"):
        invoke(tmp_path / "out.onnx")


class TwoHeads(nn.Module):
    """Ends in a BatchNorm, and in a ReLU that is read elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.head, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        return self.last(self.head(y)), y


def test_the_names_of_the_outputs_do_not_depend_on_the_fold(tmp_path):
    torch.manual_seed(0)
    module, x = randomise_(TwoHeads(), 0).eval(), torch.randn(2, 3, 4, 4)
    names = {}
    for fold in (True, False):
        bnfold.export(module, x, tmp_path / f"{fold}.onnx", fold=fold)
        names[fold] = [item.name for item in onnx.load(tmp_path / f"{fold}.onnx").graph.output]
    assert names[True] == names[False] == ["batch_norm_1", "relu"]
    assert bnfold.check(tmp_path / "False.onnx", tmp_path / "True.onnx").passed


def test_a_program_has_the_dynamic_axes_that_it_was_exported_with(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    program = torch.export.export(network, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(BnfoldError, match="--dynamic h: the exported program has these lengths fixed"):
        invoke(tmp_path / "net.pt2", "--dynamic", "0=n,2=h")
    assert invoke(tmp_path / "net.pt2", "--dynamic", "0=images").exit_code == 0
    shape = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape
    assert [side.dim_param or side.dim_value for side in shape.dim] == ["images", 3, 8, 8]
