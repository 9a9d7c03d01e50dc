"""The device and the threads that a run takes."""

import contextlib
from collections.abc import Iterator

import torch

from bnfold.errors import BnfoldError


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device(name: str) -> torch.device:
    """Find a device and try it. Raises BnfoldError where it can't be used."""
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()  # which the meta device, that has no numbers, can't
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise BnfoldError(f"device {name!r}: can't be used ({reason}); give cpu, or install what it needs") from error
    return found
