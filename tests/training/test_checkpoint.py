"""Checkpoints: what is written comes back, and anything else gets one clear line."""

import zipfile
from functools import partial

import pytest
import torch
from torch import nn

from bnfold.errors import BnfoldError, UnsafeError
from bnfold.models import ARCHITECTURES, create
from bnfold.training import checkpoint
from bnfold.training.checkpoint import Checkpoint
from bnfold.training.statistics import randomise_


def example(name="lenet", **arguments):
    module = randomise_(create(name, **arguments), seed=3)
    shape = ARCHITECTURES[name].input_shape
    metrics = {"epoch": 3, "test_accuracy": 0.5}
    return Checkpoint(name, arguments, module.state_dict(), shape, (0.3,), (0.2,), ("a", "b"), metrics), module.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_comes_back_bit_for_bit(tmp_path, name):
    saved, module = example(name, bn_eps=1e-3, bn_momentum=0.2)
    saved.save(tmp_path / "model.pt")
    loaded = checkpoint.read(tmp_path / "model.pt")
    again = loaded.model()
    x = torch.randn(3, *saved.input_shape)
    with torch.no_grad():
        assert torch.equal(again(x), module(x))
    assert not again.training
    assert all(not tensor.is_meta for tensor in again.state_dict().values())
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in module.parameters()]


def test_fields_come_back(tmp_path):
    saved, _ = example(num_classes=7)
    saved.save(tmp_path / "model.pt")
    loaded = checkpoint.read(tmp_path / "model.pt")
    for field in ("architecture", "arguments", "input_shape", "mean", "std", "classes", "metrics", "edits"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert loaded.model().classifier[-1].out_features == 7


def test_the_file_is_a_plain_dict(tmp_path):
    example()[0].save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert type(content) is dict
    assert set(content) == {"format", "version", *checkpoint._FIELDS}
    assert content["format"] == "bnfold.checkpoint"


def test_the_same_content_gives_the_same_bytes(tmp_path):
    saved, _ = example()
    saved.save(tmp_path / "one.pt")
    saved.save(tmp_path / "two.pt")
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()


def test_loading_draws_no_random_numbers(tmp_path):
    example()[0].save(tmp_path / "model.pt")
    before = torch.get_rng_state()
    checkpoint.read(tmp_path / "model.pt").model()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_is_independent_of_its_checkpoint():
    saved, _ = example()
    with torch.no_grad():
        saved.model().classifier[1].weight.zero_()
    assert saved.state_dict["classifier.1.weight"].abs().sum() > 0


def test_a_view_of_a_large_tensor_is_saved_alone(tmp_path):
    saved, _ = example()
    weights = dict(saved.state_dict)
    weights["classifier.7.bias"] = torch.zeros(1_000_000)[:10]
    Checkpoint("lenet", {}, weights, (1, 28, 28), (0.0,), (1.0,)).save(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 500_000


def with_field(path, **changes):
    content = example()[0].to_dict()
    torch.save({name: value for name, value in {**content, **changes}.items() if value is not KeyError}, path)


def with_weights(path, **weights):
    with_field(path, state_dict={**example()[0].to_dict()["state_dict"], **weights})


def compress(path):
    example()[0].save(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def flip_a_byte(path):
    example()[0].save(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 2000] ^= 1
    path.write_bytes(content)


def cut(path):
    example()[0].save(path)
    path.write_bytes(path.read_bytes()[:-1000])


MALFORMED = [
    pytest.param(lambda path: None, "no such file", id="missing"),
    pytest.param(lambda path: path.mkdir(), "is not a file", id="folder"),
    pytest.param(lambda path: path.touch(), "is empty", id="empty"),
    pytest.param(lambda path: path.write_text("hello"), "is not an archive", id="text"),
    pytest.param(cut, "is not an archive", id="truncated"),
    pytest.param(flip_a_byte, "is damaged", id="flipped byte"),
    pytest.param(partial(torch.save, torch.zeros(2)), "holds a Tensor", id="tensor"),
    pytest.param(partial(torch.save, {1: 2}), "holds a dict", id="numbers as keys"),
    pytest.param(partial(torch.save, {"a.weight": torch.zeros(2)}), "--arch", id="state_dict"),
    pytest.param(partial(with_field, version=2), "has version 2", id="newer"),
    pytest.param(partial(with_field, classes=KeyError), "has no 'classes'", id="field missing"),
    pytest.param(partial(with_field, architecture=3), "'architecture' is 3", id="architecture"),
    pytest.param(partial(with_field, arguments=[1]), "'arguments' is", id="arguments"),
    pytest.param(partial(with_field, arguments={"num_classes": True}), "'arguments' is", id="truth for a number"),
    pytest.param(partial(with_field, input_shape=[1, -28, 28]), "'input_shape' is", id="negative shape"),
    pytest.param(partial(with_field, input_shape=[]), "'input_shape' is", id="no shape"),
    pytest.param(partial(with_field, normalisation={"mean": [0.0], "std": [0.0]}), "'normalisation'", id="std 0"),
    pytest.param(partial(with_field, normalisation={"mean": [0.0]}), "'normalisation'", id="no std"),
    pytest.param(partial(with_field, metrics={"loss": float("nan")}), "'metrics'", id="metric nan"),
    pytest.param(partial(with_field, classes=[0, 1]), "'classes'", id="classes"),
    pytest.param(partial(with_field, edits=[]), "'edits'", id="edits"),
    pytest.param(partial(with_weights, huge=torch.zeros(1).expand(2**40)), "'state_dict'", id="expanded"),
    pytest.param(partial(with_weights, sparse=torch.eye(3).to_sparse()), "'state_dict'", id="sparse"),
]


@pytest.mark.parametrize(("write", "message"), MALFORMED)
def test_malformed_files(tmp_path, write, message):
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(BnfoldError) as caught:
        checkpoint.read(path)
    assert caught.value.exit_status == 2
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 250 + len(str(path))
    assert "\n" not in str(caught.value)


UNSAFE = [
    pytest.param(partial(torch.save, nn.Linear(2, 2)), "running its code", id="pickled module"),
    pytest.param(compress, "compressed entries", id="compressed"),
]


@pytest.mark.parametrize(("write", "message"), UNSAFE)
def test_unsafe_files(tmp_path, write, message):
    write(tmp_path / "model.pt")
    with pytest.raises(UnsafeError, match=message):
        checkpoint.read(tmp_path / "model.pt")


FORGED = [
    pytest.param({"architecture": "os.system"}, "not one of bnfold's", id="code for a name"),
    pytest.param({"arguments": {"depth": 3}}, "takes no 'depth'", id="unknown argument"),
    pytest.param({"arguments": {"num_classes": 10**12}}, "can't have num_classes", id="larger than the file"),
    pytest.param({"arguments": {"num_classes": "10"}}, "can't have num_classes", id="text for a number"),
    pytest.param({"arguments": {"bn_eps": -1.0}}, "can't have bn_eps", id="negative eps"),
    pytest.param({"arguments": {"num_classes": 11}}, r"classifier.7.weight is \(10, 84\), not \(11, 84\)", id="shape"),
    pytest.param({"state_dict": {"a": torch.zeros(300)}}, "is missing; .* more", id="weights missing"),
    pytest.param({"edits": "[]"}, "was folded", id="edits"),
]


@pytest.mark.parametrize(("changes", "message"), FORGED)
def test_a_network_that_can_not_be_built(tmp_path, changes, message):
    with_field(tmp_path / "model.pt", **changes)
    loaded = checkpoint.read(tmp_path / "model.pt")
    with pytest.raises(BnfoldError, match=message):
        loaded.model("model.pt")
