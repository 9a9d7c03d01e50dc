"""What an exported file says of itself, and what onnxsim and float16 make of it, is held to the model."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import bnfold
from bnfold.adapters import torch_onnx, torch_onnx_write
from bnfold.errors import BnfoldError, DifferentError
from bnfold.training.statistics import randomise_
from tests.adapters.onnx_cases import run
from tests.adapters.torch_networks import conv_bn, image
from tests.commands.test_export_torch import invoke, save

torch.set_num_threads(1)
Simplify = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, bool]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("convnet", tmp_path_factory.mktemp("export") / "model.pt")


@pytest.fixture
def small() -> nn.Module:
    return randomise_(conv_bn(), 0).eval()


@pytest.mark.parametrize("options", [("--skip", "*1.1"), ("--simplify",), ("--half",)], ids=" ".join)
def test_the_file_says_what_it_was_made_of(options: tuple[str, ...], model: Path, tmp_path: Path) -> None:
    told = json.loads(invoke(model, "-o", tmp_path / "out.onnx", "--json", *options).stdout)
    proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    said = {item.key: item.value for item in proto.metadata_props if not item.key.startswith("onnxsim.")}
    assert said == {
        "bnfold.version": bnfold.__version__,
        "bnfold.plan_sha256": told["fold"]["plan_sha256"],
        "bnfold.source_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }


def test_dynamic_axes_take_other_lengths(small: nn.Module, tmp_path: Path) -> None:
    bnfold.export(small, image(), tmp_path / "out.onnx", dynamic={0: "n", 2: "h", 3: "w"}, input_names=["x"])
    for shape in ((1, 3, 8, 8), (5, 3, 11, 6)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        (got,) = run(tmp_path / "out.onnx", {"x": x.numpy()})
        with torch.no_grad():
            want = small(x).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def scaled(proto: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """Change the largest weight."""
    held = max(proto.graph.initializer, key=lambda item: len(item.raw_data))
    array = numpy_helper.to_array(held)
    held.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), held.name))
    return proto


def _wrong(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    return scaled(proto, 1.01), True


def _undone(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    return proto, False


def _failing(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    raise ValueError("no such shape")


@pytest.mark.parametrize(
    ("simplify", "error", "message"),
    [
        (_wrong, DifferentError, r"^Sequential: out\.onnx on cpu: output: "),
        (_undone, BnfoldError, "--simplify: onnxsim's own check failed; leave it out"),
        (_failing, BnfoldError, r"--simplify: onnxsim failed \(ValueError: no such shape\)"),
    ],
)
def test_what_onnxsim_makes_is_checked(
    simplify: Simplify, error: type[Exception], message: str, small: nn.Module, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(onnxsim, "simplify", simplify)
    with pytest.raises(error, match=message):
        bnfold.export(small, image(), tmp_path / "out.onnx", simplify=True)
    assert not list(tmp_path.iterdir())


def test_onnxsim_is_not_started_where_it_would_take_too_much_memory(
    small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_onnx_write, "_SIMPLIFY_LIMIT", 1000)
    monkeypatch.setattr(onnxsim, "simplify", _failing)
    with pytest.raises(BnfoldError, match=r"--simplify: onnxsim takes too much memory for [\d,]+ bytes; leave it out"):
        bnfold.export(small, image(), tmp_path / "out.onnx", simplify=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factor", [1.05, 0.0])
def test_a_fault_that_is_far_above_what_float16_rounds_is_found(
    factor: float, small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = torch_onnx.half_proto
    monkeypatch.setattr(torch_onnx, "half_proto", lambda proto: scaled(right(proto), factor))
    with pytest.raises(DifferentError, match=r"^Sequential: out\.onnx on cpu: output: "):
        bnfold.export(small, image(), tmp_path / "out.onnx", half=True)
    assert not list(tmp_path.iterdir())
