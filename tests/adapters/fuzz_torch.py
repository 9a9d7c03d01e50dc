"""`make fuzz`: open mutated PyTorch files until stopped; by coverage where atheris is installed.

python -m tests.adapters.fuzz_torch [SECONDS]
"""

import importlib.util
import sys
import time
from pathlib import Path

from tests.adapters import torch_target

_BATCH = 100
_FOUND = Path("fuzz-finding.pt")


def _by_coverage() -> None:
    import atheris

    with atheris.instrument_imports(include=["bnfold"]):
        importlib.reload(torch_target)
    atheris.Setup([sys.argv[0]], torch_target.one)
    atheris.Fuzz()


def _at_random(seconds: float) -> None:
    """Mutate without a guide; the seed of the first batch is the clock's, and is printed."""
    seed, began, tried = time.time_ns(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for data in torch_target.mutations(_BATCH, seed):
            try:
                torch_target.one(data)
            except Exception:
                _FOUND.write_bytes(data)
                print(f"seed {seed}: kept as {_FOUND}")  # noqa: T201
                raise
        tried, seed = tried + _BATCH, seed + 1
        print(f"{tried} files, no finding", flush=True)  # noqa: T201


if __name__ == "__main__":
    if importlib.util.find_spec("atheris"):
        _by_coverage()
    else:
        _at_random(float(sys.argv[1]) if len(sys.argv) > 1 else float("inf"))
