"""Every malformed file gives one line and the right status, in bounded time and memory, and runs nothing."""

import io
import resource
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from bnfold.adapters.torch_load import load_module
from bnfold.errors import BnfoldError, UnsafeError
from bnfold.formats import inspect_archive
from tests.adapters import hostile_torch, torch_target

MARK = "ran"
CASES = [pytest.param(content, statuses, id=name) for name, content, statuses in hostile_torch.corpus(MARK)]
NAMES = [name for name, _, _ in hostile_torch.corpus(MARK)]


def opened(path: Path) -> tuple[int, str]:
    try:
        load_module(path, arch="lenet")
    except BnfoldError as error:
        return error.exit_status, str(error)
    return 0, f"{path}: opened"


@pytest.mark.parametrize(("content", "statuses"), CASES)
def test_one_line_and_no_code(content: bytes, statuses: tuple[int, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model"
    path.write_bytes(content)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, message = opened(path)
    assert status in statuses, message
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert not (tmp_path / MARK).exists()
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


def test_the_payload_works(tmp_path, monkeypatch):
    """A corpus whose code would never run shows nothing."""
    monkeypatch.chdir(tmp_path)
    content = next(content for name, content, _ in hostile_torch.corpus(MARK) if name == "code.pt")
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(BnfoldError, match=r"holds no state_dict|fit"):
        load_module(tmp_path / "model.pt", arch="lenet", trust=True)
    assert (tmp_path / MARK).exists()


def test_names_are_unique():
    assert len(set(NAMES)) == len(NAMES)


def test_a_pickled_module_of_layers_loads(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.TransformerEncoderLayer(4, 2))
    torch.save(module, tmp_path / "model.pt")
    loaded = load_module(tmp_path / "model.pt", inputs="1x3x8x8")
    assert loaded.kind == "module"
    assert not loaded.module.training
    assert loaded.example_inputs[0].shape == (1, 3, 8, 8)


class Own(nn.Module):
    """Somebody's own class."""


def test_somebody_s_own_class_is_named_with_the_ways_out(tmp_path):
    torch.save(Own(), tmp_path / "model.pt")
    with pytest.raises(UnsafeError, match=r"run code of .*Own.*--arch.*safetensors.*--trust"):
        load_module(tmp_path / "model.pt")
    assert type(load_module(tmp_path / "model.pt", trust=True).module) is Own


def test_the_limit_can_be_chosen(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "model.pt")
    with pytest.raises(UnsafeError, match="--max-bytes"):
        inspect_archive(tmp_path / "model.pt", max_bytes=1000)
    inspect_archive(tmp_path / "model.pt", max_bytes=100_000)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_end_in_a_module_or_in_one_line(seed):
    for data in torch_target.mutations(50, seed):
        torch_target.one(data)


@pytest.fixture
def without_checksums():
    torch.serialization.set_crc32_options(False)  # a 0 stands where the CRC-32 would
    yield
    torch.serialization.set_crc32_options(True)


def test_an_archive_without_checksums_opens(tmp_path, without_checksums):
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    torch.save(module, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        assert not any(info.CRC for info in archive.infolist())
    loaded = load_module(tmp_path / "model.pt").module
    assert torch.equal(loaded[0].weight, module[0].weight)


def test_a_name_that_the_directory_and_the_entry_do_not_share(tmp_path):
    content = hostile_torch.program()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("model_constants_config.json"))
    place = content.index(name.encode())  # the entry's own header comes first, the directory last
    changed = content[:place] + name.encode()[::-1] + content[place + len(name) :]
    path = tmp_path / "model.pt2"
    path.write_bytes(changed)
    with pytest.raises(BnfoldError, match="is damaged"):
        load_module(path)
