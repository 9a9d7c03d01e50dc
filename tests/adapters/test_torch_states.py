"""Files of weights as people have them: states of more than tensors or of none, and architectures of several files."""

import sys

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters import torch_factory
from bnfold.adapters.torch_load import load_module
from bnfold.errors import BnfoldError
from tests.adapters.torch_networks import conv_bn, image, randomised


def test_an_architecture_may_import_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_it.py").write_text("from torch import nn\nLAYER = nn.Conv2d\n")
    (tmp_path / "net.py").write_text("from beside_it import LAYER\ndef Net(): return LAYER(1, 2, 3)\n")
    torch.save(nn.Conv2d(1, 2, 3).state_dict(), tmp_path / "model.pt")
    assert load_module(tmp_path / "model.pt", arch=f"{tmp_path}/net.py:Net").kind == "state_dict"
    del sys.modules["beside_it"]


@pytest.mark.parametrize("arch", ["{}/broken_net.py:Net", "broken_net:Net"])
@pytest.mark.parametrize(("code", "error"), [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError")])
def test_an_architecture_that_fails_is_one_line(tmp_path, monkeypatch, arch, code, error):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_net.py").write_text(code)
    with pytest.raises(BnfoldError, match=rf"broken_net(\.py)? fails \({error}: "):
        torch_factory.build(arch.format(tmp_path))


class Extra(nn.Module):
    """A module that stores more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.extra = conv_bn(), None

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [7, "text", {"a": 1}, [torch.ones(2)], torch.ones(2)], ids=str)
def test_a_state_of_more_than_tensors(tmp_path, extra):
    module, arch = randomised(Extra()), f"{__file__}:Extra"
    module.extra = extra
    torch.save(module.state_dict(), tmp_path / "model.pt")
    result = bnfold.fold(tmp_path / "model.pt", image(), arch=arch)
    again = bnfold.load(result.model, arch=arch)
    assert str(again.extra) == str(extra)
    torch.testing.assert_close(again(image()), module(image()), rtol=1e-4, atol=1e-4)
    if not isinstance(extra, Tensor):
        with pytest.raises(BnfoldError, match=r"_extra_state is of type \w+; safetensors stores tensors alone"):
            bnfold.fold(tmp_path / "model.pt", image(), arch=arch, output=tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("number", [3, None, "text"])
def test_a_number_in_the_place_of_a_tensor_is_one_line(tmp_path, number):
    state = {**conv_bn().state_dict(), "0.weight": number}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(BnfoldError, match=rf"0\.weight is a {type(number).__name__}, not \(4, 3, 3, 3\)"):
        load_module(tmp_path / "model.pt", arch="tests.adapters.torch_networks:conv_bn")


def test_a_file_of_no_tensors_is_one_line(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(BnfoldError, match=r"doesn't fit --arch lenet: features.0.weight is missing"):
        load_module(tmp_path / "empty.safetensors", arch="lenet")
