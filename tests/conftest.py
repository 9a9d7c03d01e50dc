"""One thread a process: the suite runs a process a core, and threads that wait for each other cost most of the time."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
