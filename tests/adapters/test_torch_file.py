"""Real files, by torch.save, torch.export.save and safetensors: opened, folded, written, opened again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import bnfold
from bnfold import atomic
from bnfold.adapters import torch_file, torch_pickle
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_load import EDITS_KEY, load_module
from bnfold.errors import BnfoldError, UnverifiedError
from bnfold.models import ARCHITECTURES, create
from bnfold.training.checkpoint import Checkpoint
from tests.adapters.torch_networks import conv_bn, image, randomised

torch.set_num_threads(1)
NAME = "densenet"
SHAPE = (2, *ARCHITECTURES[NAME].input_shape)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomised(create(NAME))


def checkpoint(module: nn.Module) -> Checkpoint:
    architecture = ARCHITECTURES[NAME]
    return Checkpoint(
        NAME, dict(architecture.arguments), module.state_dict(), architecture.input_shape, (0.5,), (0.25,)
    )


def run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x)


def write_state(module: nn.Module, path: Path) -> None:
    torch.save(module.state_dict(), path)


def write_nested(module: nn.Module, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, path)


def write_compiled(module: nn.Module, path: Path) -> None:
    torch.save({"model": {f"_orig_mod.module.{k}": v for k, v in module.state_dict().items()}}, path)


def write_safetensors(module: nn.Module, path: Path) -> None:
    safetensors.torch.save_file(module.state_dict(), path)


def write_legacy(module: nn.Module, path: Path) -> None:
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)


def write_program(module: nn.Module, path: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(module, (image(SHAPE),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


FILES = [
    pytest.param(lambda module, path: checkpoint(module).save(path), None, "checkpoint", id="checkpoint"),
    pytest.param(write_state, NAME, "state_dict", id="state_dict"),
    pytest.param(write_nested, NAME, "state_dict", id="nested, module."),
    pytest.param(write_compiled, NAME, "state_dict", id="compiled and parallel"),
    pytest.param(write_legacy, NAME, "state_dict", id="legacy"),
    pytest.param(write_safetensors, NAME, "safetensors", id="safetensors"),
    pytest.param(write_program, None, "program", id="pt2"),
]


@pytest.mark.parametrize(("write", "arch", "kind"), FILES)
def test_every_kind_opens_folds_and_opens_again(network, tmp_path, write, arch, kind):
    path = tmp_path / "model.bin"
    write(network, path)
    before = path.read_bytes()
    loaded = load_module(path, arch=arch)
    assert loaded.kind == kind
    x = image(SHAPE)
    torch.testing.assert_close(run(loaded.module, x), run(network, x))
    result = bnfold.fold(path, arch=arch)
    assert path.read_bytes() == before
    assert result.model == tmp_path / ("model.folded.pt2" if kind == "program" else f"model.folded{_suffix(kind)}")
    assert len(result.plan.folded) >= 8
    again = bnfold.load(result.model, arch=arch)
    torch.testing.assert_close(run(again, x), run(network, x), rtol=1e-4, atol=1e-5)
    left = sum(isinstance(part, nn.BatchNorm2d) for part in again.modules())
    assert kind == "program" or left == len(result.plan.kept)


class Deaf(nn.Module):
    """`used`: nothing of the input gets through; otherwise it isn't even read."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.layers, self.used = conv_bn(), used
        self.own = nn.Parameter(torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.own) + 0 * x.sum() if self.used else self.layers(self.own)


@pytest.mark.parametrize("target", ["out.pt", "out.pt2", "out.onnx"])
@pytest.mark.parametrize("used", [True, False])
def test_a_model_that_no_input_changes_is_not_verified(tmp_path, target, used):
    path = tmp_path / "model.pt"
    torch.save(randomised(Deaf(used)), path)
    with pytest.raises(UnverifiedError, match="no output changes with the input"):
        bnfold.fold(path, "2x3x8x8", output=tmp_path / target, trust=True)
    assert list(tmp_path.iterdir()) == [path]


def _suffix(kind: str) -> str:
    return ".safetensors" if kind == "safetensors" else ".bin"


@pytest.mark.parametrize("target", ["out.pt", "out.pt2", "out.safetensors", "out.onnx"])
def test_the_target_s_extension_says_the_kind(network, tmp_path, target):
    checkpoint(network).save(tmp_path / "model.pt")
    result = bnfold.fold(tmp_path / "model.pt", output=tmp_path / target)
    if target.endswith(".onnx"):
        assert bnfold.check(tmp_path / "model.pt", result.model).passed
        return
    arch = NAME if target.endswith(".safetensors") else None
    x = image(SHAPE)
    torch.testing.assert_close(run(bnfold.load(result.model, arch=arch), x), run(network, x), rtol=1e-4, atol=1e-5)


def test_a_module_of_layers(tmp_path):
    module = randomised(conv_bn())
    torch.save(module, tmp_path / "model.pt")
    result = bnfold.fold(tmp_path / "model.pt", "2x3x8x8")
    again = bnfold.load(result.model)
    assert isinstance(again[1], nn.Identity)
    torch.testing.assert_close(run(again, image()), run(module, image()), rtol=1e-4, atol=1e-5)


def test_what_is_folded_loads_without_bnfold(network, tmp_path):
    """The three lines of docs/pytorch.md."""
    write_state(network, tmp_path / "model.pt")
    bnfold.fold(tmp_path / "model.pt", arch=NAME)
    file = torch.load(tmp_path / "model.folded.pt", weights_only=True)
    module = create(NAME).eval()
    edits = json.loads(file["edits"])
    for path in edits["identity"]:
        module.set_submodule(path, nn.Identity())
    for path in edits["copying"]:
        module.get_submodule(path).inplace = False
    for path, shape in edits["biases"].items():
        module.get_submodule(path.rpartition(".")[0]).bias = nn.Parameter(torch.zeros(shape))
    module.load_state_dict(file["state_dict"])
    torch.testing.assert_close(run(module, image(SHAPE)), run(network, image(SHAPE)), rtol=1e-4, atol=1e-5)


def test_a_fold_of_a_folded_file_changes_nothing(network, tmp_path):
    checkpoint(network).save(tmp_path / "model.pt")
    once = bnfold.fold(tmp_path / "model.pt").model
    twice = bnfold.fold(once)
    assert not twice.plan.folded
    x = image(SHAPE)
    assert torch.equal(run(bnfold.load(twice.model), x), run(bnfold.load(once), x))


def test_the_input_is_kept_unless_asked(network, tmp_path):
    path = tmp_path / "model.pt"
    checkpoint(network).save(path)
    with pytest.raises(BnfoldError, match=r"is the input; .*--in-place"):
        bnfold.fold(path, output=path)
    bnfold.fold(path, inplace=True)
    assert load_module(path).edits is not None


def test_a_dry_run_writes_nothing(network, tmp_path):
    checkpoint(network).save(tmp_path / "model.pt")
    result = bnfold.fold(tmp_path / "model.pt", dry_run=True)
    assert result.plan.folded
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt"]


ERRORS = [
    (lambda path: write_state(create(NAME), path), {}, r"say what builds the network: --arch"),
    (lambda path: write_state(create(NAME), path), {"arch": "lenet"}, r"doesn't fit --arch lenet: .* is missing"),
    (lambda path: write_state(create(NAME), path), {"arch": "nonsense"}, r"no such network"),
    (lambda path: write_state(create(NAME), path), {"arch": "no_such_package:Net"}, r"can't be imported"),
    (lambda path: write_state(create(NAME), path), {"arch": "./none.py:Net"}, r"no such file"),
    (lambda path: write_state(create(NAME), path), {"arch": "math:pi"}, r"has no callable"),
    (lambda path: write_state(create(NAME), path), {"arch": "math:sqrt"}, r"the factory failed"),
    (lambda path: torch.save(conv_bn(), path), {}, r"give --input"),
    (lambda path: torch.save(conv_bn(), path), {"inputs": ("2xx3",)}, r"wanted \[NAME=\]SHAPE"),
    (lambda path: torch.save(conv_bn(), path), {"inputs": ("2x3x8x8:floaty",)}, r"no such dtype: floaty"),
    (lambda path: torch.save(conv_bn(), path), {"inputs": ("y=2x3x8x8", "z=2")}, r"forward takes input"),
    (lambda path: torch.save(conv_bn(), path), {"inputs": ("2x5x8x8",)}, r"2x5x8x8"),
]


@pytest.mark.parametrize(("write", "options", "message"), ERRORS)
def test_one_line_says_what_is_wrong(tmp_path, write, options, message):
    write(tmp_path / "model.pt")
    with pytest.raises(BnfoldError, match=message) as caught:
        torch_file.fold_file(tmp_path / "model.pt", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_torchscript_archive_says_what_to_do(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.trace(conv_bn().eval(), image()).save(tmp_path / "model.pt")
    with pytest.raises(BnfoldError, match=r"TorchScript.*deprecated.*torch\.export\.save"):
        load_module(tmp_path / "model.pt")


def test_architectures_of_the_user(tmp_path):
    code = "from torch import nn\ndef Net(width): return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))\n"
    (tmp_path / "net.py").write_text(code)
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    torch.save(module.state_dict(), tmp_path / "model.pt")
    loaded = load_module(tmp_path / "model.pt", arch=f"{tmp_path}/net.py:Net", arch_kwargs={"width": 5})
    assert torch.equal(loaded.module[0].weight, module[0].weight)


def test_half_precision_weights_make_a_half_module(tmp_path):
    module = create("lenet").half()
    torch.save(module.state_dict(), tmp_path / "model.pt")
    loaded = load_module(tmp_path / "model.pt", arch="lenet")
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float16}
    assert loaded.example_inputs[0].dtype == torch.float16


def test_edits_survive_json():
    edits = ModuleEdits(("a.b",), {"c": ("drop", "act")}, {"conv.bias": (4,)}, ("relu",))
    assert ModuleEdits.from_json(edits.to_json(), "it") == edits


def test_edits_stand_in_safetensors(network, tmp_path):
    write_safetensors(network, tmp_path / "model.safetensors")
    result = bnfold.fold(tmp_path / "model.safetensors", arch=NAME)
    with safetensors.safe_open(result.model, "pt") as file:
        assert json.loads(file.metadata()[EDITS_KEY])["identity"]


def test_layers_that_pickles_may_hold():
    allowed = torch_pickle.layer_classes()
    assert "torch.nn.modules.conv.Conv2d" in allowed
    assert not any(".loss." in name or "Lazy" in name for name in allowed)


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.02])
def test_a_killed_write_leaves_the_old_file_or_the_new_one(tmp_path, delay):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    code = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from pathlib import Path\n"
        "from bnfold.adapters.torch_edits import ModuleEdits\n"
        "from bnfold.adapters.torch_file import save_module\n"
        "module = nn.Linear(2000, 500)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    save_module(module, Path(sys.argv[1]), 'state_dict', ModuleEdits(), None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        signal.sigtimedwait([], delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    if path.read_bytes() != b"old":
        assert torch.load(path, weights_only=True)["state_dict"]["weight"].shape == (500, 2000)


@pytest.mark.parametrize(
    ("name", "target"), [("m.onnx", "m.folded.pt"), ("m.safetensors", "m.folded.pt"), ("m.pth", "m.folded.pth")]
)
@pytest.mark.parametrize("trust", [False, True])
def test_an_extension_that_is_another_kind_s_does_not_matter(tmp_path, name, target, trust):
    module = randomised(conv_bn())
    torch.save(module, tmp_path / name)
    result = bnfold.fold(tmp_path / name, "2x3x8x8", trust=trust)
    assert result.model == tmp_path / target
    torch.testing.assert_close(run(bnfold.load(result.model), image()), run(module, image()), rtol=1e-4, atol=1e-5)


def test_code_that_a_trusted_file_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("from torch import nn\n\n\nclass Net(nn.Sequential):\n    pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        torch.save(__import__("elsewhere").Net(nn.ReLU()), tmp_path / "model.pt")
    del sys.modules["elsewhere"]
    with pytest.raises(BnfoldError, match=r"needs code that can't be imported here .*No module named 'elsewhere'"):
        load_module(tmp_path / "model.pt", trust=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("target", ["out.pt", "out.pt2", "out.onnx"])
def test_a_full_disk_is_one_line(network, tmp_path, monkeypatch, target):
    """The files end up on a device that is always full; torch's own writer would end the process."""
    checkpoint(network).save(tmp_path / "model.pt")
    begin = atomic._begin

    def full(path: object) -> tuple[Path, Path]:
        final, temporary = begin(path)
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        return final, temporary

    monkeypatch.setattr(atomic, "_begin", full)
    with pytest.raises(BnfoldError, match=rf"{target}: can't be written \(.*No space left on device.*\); make room"):
        bnfold.fold(tmp_path / "model.pt", output=tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert not Path("/dev/full").is_file()


def test_a_safetensors_file_that_can_t_be_written_is_one_line(network, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    checkpoint(network).save(tmp_path / "model.pt")
    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(BnfoldError, match=r"out.safetensors: can't be written \(I/O error: No space left"):
        bnfold.fold(tmp_path / "model.pt", output=tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_folded_program_s_file_knows_its_inputs(network, tmp_path):
    write_program(network, tmp_path / "model.pt2")
    first = bnfold.fold(tmp_path / "model.pt2")
    assert not bnfold.fold(first.model).plan.folded
