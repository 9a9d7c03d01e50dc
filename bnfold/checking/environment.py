"""What a check ran on."""

import contextlib
import platform
from importlib import metadata

from bnfold.checking.result import Environment

PACKAGES = ("bnfold", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch")


def environment() -> Environment:
    """Give versions of what is installed, the providers that the runtime lists, and the machine; no names or paths."""
    return Environment(
        versions=(("python", platform.python_version()), *installed(PACKAGES)),
        providers=_providers(),
        machine=(("system", platform.system()), ("machine", platform.machine())),
    )


def installed(packages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Give the versions of those packages that are installed."""
    found = []
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append((package, metadata.version(package)))
    return tuple(found)


def _providers() -> tuple[str, ...]:
    try:
        import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())
