"""`make fuzz`: feed mutated ONNX files to the fold until stopped; by coverage where atheris is installed.

python -m tests.adapters.fuzz_onnx [SECONDS]
"""

import importlib.util
import sys
import time
from pathlib import Path

from tests.adapters import onnx_target

_BATCH = 200
_FOUND = Path("fuzz-finding.onnx")


def _by_coverage() -> None:
    import atheris

    with atheris.instrument_imports(include=["bnfold"]):
        importlib.reload(onnx_target)
    atheris.Setup([sys.argv[0]], onnx_target.one)
    atheris.Fuzz()


def _at_random(seconds: float) -> None:
    """Mutate without a guide; the seed of the first batch is the clock's, and is printed."""
    seed, began, tried = time.time_ns(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for data in onnx_target.mutations(_BATCH, seed):
            try:
                onnx_target.one(data)
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
