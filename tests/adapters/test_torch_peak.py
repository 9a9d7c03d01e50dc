"""Peak memory of a fold, above the module: by default its copy and little else, in place little else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELD = 16  # MiB of old weights that stay in memory
TRIMMED = 32  # MiB that are given up before the heap is trimmed, or lie in its holes
LITTLE = 16  # MiB, where 9 were measured: the graph, the solver's rows, one weight in float64

# Layers of several sizes, for what was freed of one doesn't suit the next.
# Free memory is given back first, so that no fold can hide in what was there before.
SCRIPT = """
import ctypes, gc, sys
import torch
from torch import nn
import bnfold

def layer(inputs, outputs, size):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()

def network(*blocks):
    parts = []
    for width, count in blocks:
        parts += [nn.Conv2d(parts[-3].out_channels if parts else 64, 4 * width, 1)]
        for _ in range(count):
            parts += [*layer(4 * width, width, 1), *layer(width, width, 3), *layer(width, 4 * width, 1)]
    return nn.Sequential(*parts).eval()

def kib(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(1, 64, 4, 4)
bnfold.fold(network((16, 1), (32, 1)), x)
module = network((64, 4), (128, 6), (256, 12))
PREPARE
with torch.no_grad():
    module(x)
gc.collect()
ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
before = kib("VmRSS")
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
result = bnfold.fold(module, x, inplace=sys.argv[1] == "in place")
assert not result.plan.kept, str(result)
print(sum(item.nbytes for item in module.parameters()) / 2**20, (kib("VmHWM") - before) / 1024)
"""

LOADED = """
import io
file = io.BytesIO()
torch.save(module, file)
file.seek(0)
module = torch.load(file, weights_only=False)
del file
"""


def peak(how: str, prepare: str = "") -> tuple[float, float]:
    """Give the module's size and the peak of its fold in MiB, as a process of its own measures them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.replace("PREPARE", prepare), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, above = map(float, done.stdout.split())
    return size, above


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(
    ("how", "prepare", "copies", "more"),
    [
        pytest.param("a copy", "", 1, LITTLE, id="by default"),
        pytest.param("in place", "", 0, HELD + LITTLE, id="in place"),
        pytest.param("in place", LOADED, 0, HELD + TRIMMED + LITTLE, id="in place, loaded"),
    ],
)
def test_the_peak_is_the_model_its_copy_and_little_else(how: str, prepare: str, copies: int, more: float) -> None:
    size, above = peak(how, prepare)
    assert size > 50
    assert above < copies * size + more
