"""How a process that folds one file is set up: what helps a long run costs a short one."""

import atexit
import gc
import os
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader, module_from_spec
from types import ModuleType

_PROTOS = "onnx.onnx_ml_pb2"  # protobuf's own name for what it made of onnx.proto

_IDLE = frozenset(  # docstrings of what is compiled, and messages for a protobuf without its C extension
    {"numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars", "google.protobuf.internal.python_message"}
)


class _IdleModules:
    """A finder of modules that others import and don't look into: each is loaded at the first look."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find one of these modules; None for any other, and for one that isn't there."""
        spec = PathFinder.find_spec(name, path, target) if name in _IDLE else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def without_idle_modules() -> None:
    """Load what NumPy and protobuf import and a fold has no use for when something looks into it, if ever."""
    sys.meta_path.insert(0, _IdleModules)


def without_blas_threads() -> None:
    """Keep NumPy's BLAS to one thread: starting one a core costs more than all that a fold asks of it.

    Does nothing where the user has set it, or NumPy is there already and has asked.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def with_protos_alone() -> None:
    """Load ONNX's protos without the package around them, which a fold of plain operators has no use for.

    `import onnx` takes them from there when something asks for the rest. Does nothing where the package is loaded, or
    isn't laid out in files.
    """
    package = PathFinder.find_spec("onnx")
    if "onnx" in sys.modules or package is None:
        return
    spec = PathFinder.find_spec(_PROTOS, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return
    sys.modules[_PROTOS] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[_PROTOS])


def without_collector() -> None:
    """Look for no garbage in cycles until `with_collector`: what is imported, and what a short run allocates, stays."""
    gc.disable()


def with_collector() -> None:
    """Look for garbage from now on: a long run leaves some."""
    gc.enable()


def leave_the_rest() -> None:
    """Spare the interpreter its last collection: the process ends, and the system takes everything back."""
    gc.freeze()


def end_at_once(status: int) -> None:
    """End the process of a short run without taking its objects apart, which takes as long as many a fold's plan.

    What was registered for the exit runs, and what was printed is written. Does nothing after a long run (whose
    libraries may want to be taken apart), beside other threads, or where nobody reads.
    """
    if gc.isenabled() or threading.active_count() > 1:
        return
    atexit._run_exitfuncs()  # as the interpreter would
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # who started the process may have closed it
                stream.flush()
    except OSError:
        return
    os._exit(status)
