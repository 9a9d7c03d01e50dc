"""A fold in place that fails leaves every bit of a module as it was, wherever its old weights lie."""

import errno
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.adapters import torch_audit, torch_numbers, torch_old_weights, torch_truth, torch_write
from bnfold.adapters.torch_old_weights import OldWeights
from bnfold.adapters.torch_undo import Undo
from tests.adapters.torch_networks import image, randomised

ELEMENTS = 54  # of a stretch: every weight below has several
FOLDED = 3
OPEN = Path("/proc/self/fd")


@pytest.fixture(autouse=True)
def nothing_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_old_weights, "HELD", 0)
    monkeypatch.setattr(torch_old_weights, "TRIMMED", 0)
    monkeypatch.setattr(bnfold.graph, "SLAB", ELEMENTS)


def network() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    second = [nn.ConvTranspose2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return randomised(nn.Sequential(*first, *second, nn.Linear(256, 5), nn.BatchNorm1d(5)))


def from_numpy(module: nn.Module) -> nn.Module:
    for item in module.parameters():
        item.data = torch.from_numpy(item.detach().numpy().copy())
    return module


def mapped(module: nn.Module) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(module.state_dict(), f"{folder}/weights.pt")
        module.load_state_dict(torch.load(f"{folder}/weights.pt", mmap=True), assign=True)
    return module


def flat(module: nn.Module) -> nn.Module:
    whole = torch.cat([item.detach().reshape(-1) for item in module.parameters()])
    for item in module.parameters():
        item.data, whole = whole[: item.numel()].view(item.shape), whole[item.numel() :]
    return module


def expanded(module: nn.Module) -> nn.Module:
    for item in module.parameters():
        item.data = item.data[:1].expand(item.shape)
    return module


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as usual": lambda module: module,
    "channels last": lambda module: module.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    "bfloat16": lambda module: module.bfloat16(),
    "float64": lambda module: module.double(),
    "NumPy's": from_numpy,
    "mapped": mapped,
    "parts of one": flat,
    "expanded": expanded,
    "shared by processes": lambda module: module.share_memory(),
    "without gradients": lambda module: module.requires_grad_(False),
}

# Where: at which call of which function.
FAULTS: dict[str, tuple[Any, str, int, BaseException]] = {
    "the audit": (torch_audit, "audit", 0, bnfold.DifferentError("no")),
    "the comparison": (torch_truth, "require_same", 0, bnfold.DifferentError("no")),
    "the first stretch": (torch_numbers, "finite", 0, KeyboardInterrupt()),
    "the second stretch": (torch_numbers, "finite", 1, KeyboardInterrupt()),
    "a later weight": (torch_numbers, "finite", 6, KeyboardInterrupt()),
    "a bias": (torch_write, "rounded", 1, KeyboardInterrupt()),
    "the first that is saved": (torch_old_weights, "_write", 0, KeyboardInterrupt()),
    "a later one that is saved": (torch_old_weights, "_write", 4, KeyboardInterrupt()),
    "no memory": (torch_old_weights, "_fresh", 0, MemoryError()),
}


def failing(function: Callable[..., Any], after: int, error: BaseException) -> Callable[..., Any]:
    calls = iter(range(after))

    def called(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise error
        return function(*args, **kwargs)

    return called


def looks(module: nn.Module) -> list[tuple[Any, ...]]:
    """All of its parameters but where they lie."""
    named = module.named_parameters()
    return [(name, id(item), item.shape, item.stride(), item.dtype, item.requires_grad) for name, item in named]


def addresses(module: nn.Module) -> list[int]:
    return [item.data_ptr() for item in module.parameters()]


def bits(module: nn.Module) -> dict[str, Tensor]:
    tensors = module.state_dict().items()
    return {name: item.contiguous().view(-1).view(torch.uint8).clone() for name, item in tensors}


def require_bits(module: nn.Module, wanted: dict[str, Tensor]) -> None:
    found = bits(module)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


SAVED = KINDS.keys() - {"parts of one", "expanded", "shared by processes"}  # others stay in memory
MOVED = KINDS.keys() - SAVED | {"NumPy's", "mapped"}  # these get other memory
REACHED = {"the first that is saved": SAVED, "a later one that is saved": SAVED, "no memory": MOVED}
CASES = [(kind, fault) for fault in FAULTS for kind in KINDS if kind in REACHED.get(fault, KINDS)]


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_failure_leaves_every_bit(monkeypatch: pytest.MonkeyPatch, kind: str, fault: str) -> None:
    where, name, after, error = FAULTS[fault]
    module = KINDS[kind](network())
    x = image().to(next(module.parameters()).dtype)
    before = bits(module), looks(module), addresses(module), list(module.modules())
    with monkeypatch.context() as broken:
        broken.setattr(where, name, failing(getattr(where, name), after, error))
        with pytest.raises(type(error)):
            bnfold.fold(module, x, inplace=True)
    require_bits(module, before[0])
    assert looks(module) == before[1]
    assert kind in ("NumPy's", "mapped") or addresses(module) == before[2]
    assert all(one is other for one, other in zip(module.modules(), before[3], strict=True))
    assert len(bnfold.fold(module, x, inplace=True).plan.folded) == FOLDED


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_weights_are_those_of_a_copy(kind: str) -> None:
    module = KINDS[kind](network())
    x = image().to(next(module.parameters()).dtype)
    copied = bits(bnfold.fold(module, x).model)
    require_bits(bnfold.fold(module, x, inplace=True).model, copied)


def test_what_others_show_is_not_written_over() -> None:
    module = network()
    array = np.random.default_rng(0).standard_normal((6, 3, 3, 3), np.float32)
    module[0].weight.data, before = torch.from_numpy(array), array.copy()
    shown, wanted = module[3].weight.detach(), module[3].weight.detach().clone()
    bnfold.fold(module, image(), inplace=True)
    assert np.array_equal(array, before)
    assert torch.equal(shown, wanted)
    assert not torch.equal(module[3].weight, wanted)


def test_a_weight_keeps_its_memory() -> None:
    module = network()
    before = addresses(module)
    bnfold.fold(module, image(), inplace=True)
    assert set(addresses(module)) & set(before) >= {module[0].weight.data_ptr(), module[3].weight.data_ptr()}


@pytest.mark.parametrize("failing_at", [0, 1, 3])
@pytest.mark.parametrize("fault", [None, "the audit", "a later weight"])
def test_without_room_for_a_file_memory_serves(
    monkeypatch: pytest.MonkeyPatch, fault: str | None, failing_at: int
) -> None:
    write = failing(torch_old_weights._write, failing_at, OSError(errno.ENOSPC, "No space left on device"))
    module = network()
    before = bits(module)
    with monkeypatch.context() as broken:
        broken.setattr(torch_old_weights, "_write", write)
        if fault is None:
            wanted = bits(bnfold.fold(module, image()).model)
            require_bits(bnfold.fold(module, image(), inplace=True).model, wanted)
        else:
            where, name, after, error = FAULTS[fault]
            broken.setattr(where, name, failing(getattr(where, name), after, error))
            with pytest.raises(type(error)):
                bnfold.fold(module, image(), inplace=True)
            require_bits(module, before)


def test_without_a_folder_for_files_memory_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", failing(tempfile.TemporaryFile, 0, FileNotFoundError("no folder")))
    assert len(bnfold.fold(network(), image(), inplace=True).plan.folded) == FOLDED


@pytest.mark.skipif(not OPEN.exists(), reason="tells open files by /proc")
def test_the_file_goes_with_the_fold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(list(OPEN.iterdir()))
    result = bnfold.fold(network(), image(), inplace=True)
    assert (len(list(OPEN.iterdir())), list(tmp_path.iterdir())) == (before, [])
    assert len(result.plan.folded) == FOLDED


def test_old_numbers_are_read_after_new_ones_are_written() -> None:
    weight, old = nn.Parameter(image((4, 3, 3, 3))), OldWeights()
    before = weight.detach().double().numpy()
    constant = old.constant("weight", weight)
    assert np.array_equal(constant.load(), before)
    weight.data = old.room(weight).zero_()
    assert not weight.any()
    assert np.array_equal(constant.load(), before)
    assert np.array_equal(np.concatenate([numbers for _, numbers in constant.slabs()]), before)
    old.put_back()
    assert np.array_equal(constant.load(), before)
    assert np.array_equal(weight.detach().numpy(), before)


def test_memory_of_others_is_not_written_to_either_where_nothing_has_changed() -> None:
    array = np.ones((4, 3), np.float32)
    weight, old = nn.Parameter(torch.from_numpy(array)), OldWeights()
    old.room(weight)
    array[:] = 7
    old.put_back()
    assert (array == 7).all()


def test_an_interrupt_waits_until_all_is_taken_back() -> None:
    undo, done, weight = Undo(), list[str](), nn.Parameter(torch.ones(3))
    undo.add(done.append, "first")
    undo.add(_interrupted_once(done), "second")
    mark = undo.mark()
    undo.add(done.append, "third")
    weight.data = undo.weights.room(weight).zero_()
    undo.take_back(mark)
    assert (done, weight.tolist()) == (["third"], [1, 1, 1])
    with pytest.raises(KeyboardInterrupt):
        undo.take_back()
    assert done == ["third", "second", "first"]


def _interrupted_once(done: list[str]) -> Callable[[str], None]:
    calls = iter([True])

    def step(name: str) -> None:
        if next(calls, False):
            raise KeyboardInterrupt
        done.append(name)

    return step
