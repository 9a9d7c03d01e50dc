"""How a process that folds one file is set up: what helps a long run costs a short one."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator


def without_blas_threads() -> None:
    """Keep NumPy's BLAS to one thread: starting one a core costs more than all that a fold asks of it.

    Does nothing where the user has set it, or NumPy is there already and has asked.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Look for no garbage in cycles: what folding an ONNX file allocates is needed to the end, and is no cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def leave_the_rest() -> None:
    """Spare the interpreter its last collection: the process ends, and the system takes everything back."""
    gc.freeze()
