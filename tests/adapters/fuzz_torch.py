"""`make fuzz`: open mutated PyTorch files until stopped.

python -m tests.adapters.fuzz_torch [SECONDS]
"""

from pathlib import Path

from tests.adapters.fuzzing import fuzz

if __name__ == "__main__":
    fuzz("torch_target", Path("fuzz-torch.pt"), batch=100)
