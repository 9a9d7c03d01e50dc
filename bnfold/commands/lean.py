"""How a process that folds one file is set up: what helps a long run costs a short one."""

import gc
import os
import sys


def without_blas_threads() -> None:
    """Keep NumPy's BLAS to one thread: starting one a core costs more than all that a fold asks of it.

    Does nothing where the user has set it, or NumPy is there already and has asked.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def without_collector() -> None:
    """Look for no garbage in cycles until `with_collector`: what is imported, and what a short run allocates, stays."""
    gc.disable()


def with_collector() -> None:
    """Look for garbage from now on: a long run leaves some."""
    gc.enable()


def leave_the_rest() -> None:
    """Spare the interpreter its last collection: the process ends, and the system takes everything back."""
    gc.freeze()
