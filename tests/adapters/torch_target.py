"""PyTorch files as a fuzzer makes them: whatever the bytes, opening them ends in a module or in one line."""

import functools
import random
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from bnfold.adapters.torch_load import load_module
from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES, create
from bnfold.training.checkpoint import Checkpoint
from tests.adapters import hostile_torch

MARK = "/nonexistent/mark"


@functools.cache
def seeds() -> list[bytes]:
    """One small file of each kind, and the hostile ones of up to 20 kB."""
    architecture = ARCHITECTURES["mlp"]
    arguments = {**architecture.arguments, "width": 2}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        module = create("mlp", **arguments)
        Checkpoint("mlp", arguments, module.state_dict(), architecture.input_shape, (0.5,), (0.5,)).save(path)
        checkpoint = path.read_bytes()
    layers = hostile_torch.saved(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    hostile = [content for _, content, _ in hostile_torch.corpus(MARK) if 0 < len(content) < 20_000]
    return [checkpoint, layers, hostile_torch.program(), *hostile]


def one(data: bytes) -> None:
    """Open the bytes as a file. Anything but BnfoldError is a finding."""
    with tempfile.TemporaryDirectory(prefix="bnfold-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model"
        path.write_bytes(data)
        try:
            load_module(path, arch=None, max_bytes=1 << 24)
        except BnfoldError as error:
            if len(str(error).splitlines()) != 1:
                raise AssertionError(f"more than one line: {error!r}") from error


def mutations(count: int, seed: int) -> list[bytes]:
    """Change bytes at random: of a whole file, or of one entry of an archive under a checksum that is right."""
    draw, known = random.Random(seed), seeds()
    return [mutated(draw, draw.choice(known)) for _ in range(count)]


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Change a file, or one entry of an archive."""
    if data[:2] != b"PK" or draw.random() < 0.3:
        return _changed(draw, data)
    try:
        chosen = draw.choice(hostile_torch.names(data))
        return hostile_torch.rewritten(
            data, lambda name, content: _changed(draw, content) if name == chosen else content
        )
    except Exception:  # noqa: BLE001 - a hostile seed is no archive that zipfile reads
        return _changed(draw, data)


def _changed(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        start = draw.randrange(len(changed))
        match draw.randrange(4):
            case 0:
                changed[start] = draw.randrange(256)
            case 1:
                changed[start] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[start : start + draw.randrange(1, 40)]
            case 3:
                changed[start:start] = changed[start : start + 40]
    return bytes(changed)


torch.set_num_threads(1)
