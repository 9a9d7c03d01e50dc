"""What an installation can check on, and why not on more."""

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import util
from pathlib import Path
from typing import Any

from bnfold.checking.environment import installed
from bnfold.checking.ort import open_session
from bnfold.checking.providers import Target, short_name
from bnfold.errors import UnverifiedError

_FAMILY = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn",
    "onnxruntime-rocm", "onnxruntime-migraphx",
)  # fmt: skip
_REMOTE = ("AzureExecutionProvider",)  # runs on a server, so nothing can be said of it here


class Level(StrEnum):
    """How a finding bears on checks."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing found, and what to do about it (empty where nothing is to be done)."""

    level: Level
    what: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings. `exit_status`: 0 where a check can run, 3 where none can."""

    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> int:
        """0 without a problem, else 3."""
        return 3 if any(finding.level is Level.PROBLEM for finding in self.findings) else 0


def diagnose() -> Diagnosis:
    """Look at the packages, load every provider once, ask for the GPU."""
    return Diagnosis((*_packages(), *_runtime(), *_gpu()))


def _packages() -> Iterator[Finding]:
    for name, version in installed(("bnfold", "torch", "onnx", "numpy")):
        yield Finding(Level.OK, f"{name} {version}")
    found = installed(_FAMILY)
    yield from (Finding(Level.OK, f"{name} {version}") for name, version in found)
    if not found:
        advice = "install bnfold[cpu], or bnfold[cuda] on a machine with an NVIDIA GPU"
        yield Finding(Level.PROBLEM, "no ONNX Runtime is installed", advice)
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        yield Finding(
            Level.PROBLEM,
            f"{names} are installed together, and unpack into the same folder: whichever came last is what runs",
            f"uninstall all of them ({' '.join(name for name, _ in found)}), then install the one that you want",
        )


def _runtime() -> Iterator[Finding]:
    try:
        import onnxruntime
    except ImportError as error:
        if installed(_FAMILY):
            yield Finding(Level.PROBLEM, f"ONNX Runtime can't be imported: {error}", "reinstall it")
        return
    if not hasattr(onnxruntime, "InferenceSession"):
        yield Finding(
            Level.PROBLEM, "onnxruntime is an empty folder: one of its packages was uninstalled", "reinstall it"
        )
        return
    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in onnxruntime.get_available_providers():
        yield _provider(name, folder) if name not in _REMOTE else Finding(Level.NOTE, f"{short_name(name)}: remote")


def _provider(name: str, folder: Path) -> Finding:
    short = short_name(name)
    try:
        session = open_session(tiny_model(), Target(short))
    except UnverifiedError as error:
        missing = missing_library(folder / f"libonnxruntime_providers_{short}.so")
        advice = f"the library {missing} is missing" if missing else ""
        if short in ("cuda", "tensorrt"):
            advice += "; install bnfold[cuda], whose extras bring CUDA and cuDNN" if advice else "see the driver below"
        return Finding(Level.NOTE, f"{short}: listed, but not usable: {error}", advice)
    proof = "every node ran there" if session.proven else "the runtime keeps no record of where nodes run"
    return Finding(Level.OK, f"{short}: loads; {proof}")


def missing_library(path: Path) -> str:
    """Name the shared library that keeps `path` from loading; empty where it loads or is not there."""
    if not path.is_file():
        return ""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error).partition(":")[0]
    return ""


def tiny_model() -> bytes:
    """A model of one Relu, to see whether a provider loads."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _gpu() -> Iterator[Finding]:
    lines = list(_nvidia_smi())
    for line in lines:
        yield Finding(Level.OK, f"GPU: {line}")
    if not lines:
        yield Finding(Level.NOTE, "no NVIDIA GPU or driver found", "checks run on the CPU")
    if util.find_spec("torch") is not None:
        yield _torch(bool(lines))


def _nvidia_smi() -> Iterable[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
        return [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return ()


def _torch(gpu: bool) -> Finding:
    from bnfold.checking.torch_cuda import cuda_state

    state: Any = cuda_state()
    if state.available:
        return Finding(Level.OK, f"torch runs on CUDA {state.built_for}")
    if gpu and not state.built_for:
        return Finding(Level.NOTE, "torch is built without CUDA", "install torch for CUDA to check modules on the GPU")
    if gpu:
        return Finding(
            Level.NOTE, f"torch is built for CUDA {state.built_for} and can't use the GPU", "update the driver"
        )
    return Finding(Level.OK, "torch runs on the CPU")
