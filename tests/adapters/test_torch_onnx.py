"""Exports of modules that are called with more than tensors in a row, and of what ONNX has no type for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.checking import check
from bnfold.errors import UnverifiedError
from bnfold.training.statistics import randomise_
from tests.adapters.torch_networks import conv_bn, image

X, Y = image(), image(seed=2)


class Body(nn.Module):
    """Convolution and BatchNorm on what `choose` makes of the arguments."""

    def __init__(self, choose: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layers, self.choose = conv_bn(), choose

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self.layers(self.choose(*args, **kwargs))
        return y


CALLS = {
    "tensors": (lambda x, y: x - 2 * y, (X, Y), {}),
    "one tensor twice": (lambda x, y: x - 2 * y, (X, X), {}),
    "keyword": (lambda x, y: x - 2 * y, (X,), {"y": Y}),
    "keywords in another order": (lambda x, y, z: x - 2 * y + 3 * z, (X,), {"z": X + 1, "y": Y}),
    "number": (lambda x, scale: x * scale, (X, 2.0), {}),
    "number among tensors": (lambda x, scale, y: x * scale - y, (X, 2.0, Y), {}),
    "keyword that is a number": (lambda x, scale=1.0: x * scale, (X,), {"scale": 2.0}),
    "dict": (lambda given: given["x"] - 2 * given["y"], ({"y": Y, "x": X},), {}),
    "lists": (lambda given: given[0] - 2 * given[1][0], ([X, [Y, None]],), {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_file_is_held_to_the_module_as_it_is_called(call, tmp_path):
    choose, args, kwargs = CALLS[call]
    module = randomise_(Body(choose), 0).eval()
    result = bnfold.export(module, args, tmp_path / "model.onnx", kwargs)
    assert result.check is not None
    assert result.check.passed
    assert result.fold is not None
    assert result.fold.plan.folded


def test_a_fault_is_found_however_it_is_called(tmp_path, monkeypatch):
    from bnfold.adapters import torch_onnx

    choose, args, kwargs = CALLS["number among tensors"]
    module = randomise_(Body(choose), 0).eval()
    other = randomise_(Body(choose), 1).eval()
    program = torch.export.export(other, args, kwargs)
    monkeypatch.setattr(torch_onnx, "captured", lambda *_: (program, ()))
    with pytest.raises(bnfold.DifferentError, match=r"^Body: audit: 8 constants other than recomputed"):
        bnfold.export(module, args, tmp_path / "model.onnx", kwargs)
    assert not any(tmp_path.iterdir())


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = conv_bn()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return torch.complex(y, 2 * y)


def test_complex_outputs_are_pairs_in_the_file_and_in_the_check(tmp_path):
    module = randomise_(Spectrum(), 0).eval()
    result = bnfold.export(module, X, tmp_path / "model.onnx")
    assert result.check is not None
    assert result.check.passed


def test_a_check_compares_imaginary_parts():
    module = randomise_(Spectrum(), 0).eval()

    class Other(Spectrum):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return torch.complex(y.real, y.imag * 1.001)

    other = Other().eval()
    other.load_state_dict(module.state_dict())
    assert check(module, bnfold.fold(module, X).model, X.numpy()).passed
    assert check(module, other, X.numpy()).exit_status == 1


def test_a_module_that_takes_no_input_is_not_verified(tmp_path):
    module = randomise_(Body(lambda: X), 0).eval()
    with pytest.raises(UnverifiedError, match=r"model\.onnx: takes no input"):
        bnfold.export(module, (), tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


def test_a_program_knows_what_it_takes(tmp_path):
    choose, args, kwargs = CALLS["keyword"]
    program = torch.export.export(randomise_(Body(choose), 0).eval(), args, kwargs)
    result = bnfold.export(program, None, tmp_path / "model.onnx")
    assert result.check is not None
    assert result.check.passed
