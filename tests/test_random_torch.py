"""Random modules, folded as modules, as programs and as ONNX files: whatever the plan says, the function stays."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import bnfold
from bnfold.adapters.torch_capture import quietly
from bnfold.why import Why
from tests.random_modules_torch import LAYERS, MOVES, Move, Network, grown

FACTOR = 10.0  # times the network's own error to float64, as the largest of an output
FLOOR = 5e-6  # of the output's largest number
# What these refuse may be folded when another affine is gone: its numbers, or its reading of what is overwritten.
_FOR_NOW = {Why.PRECISION, Why.GAMMA_ZERO, Why.OVERWRITTEN}


def _tensors(outputs: Any) -> list[Tensor]:
    return pytree.tree_leaves(outputs)


def _require_same(network: Network, folded: list[Tensor], x: Tensor) -> None:
    with torch.no_grad():
        truth = _tensors(copy.deepcopy(network).double()(x.double()))
        own = _tensors(network(x.clone()))
    for true, before, after in zip(truth, own, folded, strict=True):
        scale = float(true.abs().max()) + 1e-9
        allowed = max(FACTOR * float((before - true).abs().max()), FLOOR * scale)
        assert after.shape == true.shape
        assert float((after - true).abs().max()) <= allowed, str(network)


def _inputs(network: Network, example: Tensor, seed: int) -> list[Tensor]:
    """Other numbers, and other batch sizes where the network takes them."""
    torch.manual_seed(seed)
    found = [1.5 * torch.randn(batch, *example.shape[1:]) for batch in (1, 5)]
    return [1.5 * torch.randn_like(example), *(x for x in found if _takes(network, x))]


def _takes(network: Network, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            network(x.clone())
    except (RuntimeError, ValueError):
        return False
    return True


def _level(seed: int) -> str:
    return "max" if seed % 3 == 0 else "default"


def _module_stays_the_same(seed: int, chances: Mapping[Move, int] = MOVES) -> int:
    """Fold a network, and fold the result again; gives how many affines went."""
    network, example = grown(seed, chances)
    before = copy.deepcopy(network.state_dict())
    result = bnfold.fold(network, example, level=_level(seed))
    for x in _inputs(network, example, seed):
        with torch.no_grad():
            _require_same(network, _tensors(result.model(x.clone())), x)
    assert all(torch.equal(item, before[name]) for name, item in network.state_dict().items())
    own = {item.data_ptr() for item in network.state_dict().values() if item.numel()}
    assert not own & {item.data_ptr() for item in result.model.state_dict().values()}
    if not any(reason.why in _FOR_NOW for kept in result.plan.kept for reason in kept.why):
        assert not bnfold.fold(result.model, example, level=_level(seed)).plan.folded, str(network)
    return len(result.plan.folded)


def _file_stays_the_same(seed: int, folder: Path, chances: Mapping[Move, int] = MOVES) -> int:
    """Export a network as it is, and fold the file."""
    network, example = grown(seed, chances)
    source, target = folder / f"{seed}.onnx", folder / f"{seed}.folded.onnx"
    try:
        bnfold.export(network, example, source, fold=False, verify=False)
    except bnfold.BnfoldError as error:
        if "torch.onnx.export failed" not in str(error):
            raise
        return 0  # the exporter lacks operators that torch has
    result = bnfold.fold(source, output=target, level=_level(seed))
    x = 1.5 * torch.randn_like(example)
    wanted = _run(source, x)
    for before, after in zip(wanted, _run(target, x), strict=True):
        assert after.shape == before.shape
        assert float((after - before).abs().max()) <= 4 * FLOOR * (float(before.abs().max()) + 1e-9), str(network)
    return len(result.plan.folded)


def _run(path: Path, x: Tensor) -> list[Tensor]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [
        torch.from_numpy(item) for item in session.run(None, {item.name: x.numpy() for item in session.get_inputs()})
    ]


def _program_stays_the_same(seed: int, chances: Mapping[Move, int] = MOVES) -> int:
    network, example = grown(seed, chances)
    with torch.no_grad(), quietly():
        program = torch.export.export(network, (example.clone(),), strict=False)
    result = bnfold.fold(program, level=_level(seed))
    x = 1.5 * torch.randn_like(example)
    with torch.no_grad():
        _require_same(network, _tensors(result.model.module()(x.clone())), x)
    return len(result.plan.folded)


def test_random_modules_keep_their_function():
    assert sum(map(_module_stays_the_same, range(30))) > 15


@pytest.mark.parametrize("seed", [112, 754, 874, 1010, 2551, 2886, 3739, 10348])
def test_networks_on_which_folding_once_failed_keep_their_function(seed):
    """A flatten of nothing, a size that only a run refuses, updates in place, a layer called on other shapes."""
    assert _module_stays_the_same(seed) > 0


def test_random_programs_keep_their_function():
    assert sum(map(_program_stays_the_same, range(100, 115))) > 10


def test_random_exported_files_keep_their_function(tmp_path):
    assert sum(_file_stays_the_same(seed, tmp_path) for seed in range(200, 205)) > 1


def test_random_modules_with_recurrent_and_bilinear_layers_keep_their_function(tmp_path):
    assert sum(_module_stays_the_same(seed, LAYERS) for seed in range(300, 315)) > 10
    assert sum(_program_stays_the_same(seed, LAYERS) for seed in range(315, 322)) > 5
    assert sum(_file_stays_the_same(seed, tmp_path, LAYERS) for seed in range(322, 324)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("first", range(6000, 7000, 50))
def test_many_random_modules_with_recurrent_and_bilinear_layers_keep_their_function(first, tmp_path):
    assert sum(_module_stays_the_same(seed, LAYERS) for seed in range(first, first + 30)) > 15
    assert sum(_program_stays_the_same(seed, LAYERS) for seed in range(first + 30, first + 45)) > 8
    assert sum(_file_stays_the_same(seed, tmp_path, LAYERS) for seed in range(first + 45, first + 50)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 4000, 100))
def test_many_random_modules_keep_their_function(first):
    assert sum(map(_module_stays_the_same, range(first, first + 100))) > 50


@pytest.mark.slow
@pytest.mark.parametrize("first", range(4000, 5000, 100))
def test_many_random_programs_keep_their_function(first):
    assert sum(map(_program_stays_the_same, range(first, first + 100))) > 50


@pytest.mark.slow
@pytest.mark.parametrize("first", range(5000, 5200, 20))
def test_many_random_exported_files_keep_their_function(first, tmp_path):
    assert sum(_file_stays_the_same(seed, tmp_path) for seed in range(first, first + 20)) > 5
