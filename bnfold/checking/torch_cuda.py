"""What torch can do on CUDA, and how it multiplies there."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CudaState:
    """Whether torch can use CUDA, and the version that it was built for (empty for none)."""

    available: bool
    built_for: str


def cuda_state() -> CudaState:
    """Ask torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old
        return CudaState(torch.cuda.is_available(), torch.version.cuda or "")


@contextlib.contextmanager
def tf32(device: torch.device, wanted: bool) -> Iterator[None]:
    """Allow TF32 or not, while this is open; on other devices than CUDA it means nothing."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
