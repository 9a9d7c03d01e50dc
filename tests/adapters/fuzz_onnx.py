"""`make fuzz`: fold mutated ONNX files until stopped.

python -m tests.adapters.fuzz_onnx [SECONDS]
"""

from pathlib import Path

from tests.adapters.fuzzing import fuzz

if __name__ == "__main__":
    fuzz("onnx_target", Path("fuzz-onnx.onnx"), batch=200)
