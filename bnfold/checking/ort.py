"""ONNX Runtime as the device under test: sessions that are proven to run where they were asked to."""

import contextlib
import ctypes
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from bnfold.checking.providers import SESSION_OPTIONS, Target, short_name
from bnfold.checking.result import NodeRecord
from bnfold.errors import BnfoldError, UnverifiedError

Array = np.ndarray[Any, Any]
CPU = "CPUExecutionProvider"
_NEED_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_RECORD = "session.record_ep_graph_assignment_info"
_NO_FALLBACK = "session.disable_cpu_ep_fallback"
_BFLOAT16 = "tensor(bfloat16)"


class ProviderMissingError(UnverifiedError):
    """The provider is known to ONNX Runtime, and can't be used on this machine."""


class FallbackError(UnverifiedError):
    """Nodes ran elsewhere than asked for."""


@dataclass(frozen=True)
class OrtSession:
    """A session with what is known of where its nodes run. notes: what of that is worth a sentence."""

    session: Any
    nodes: tuple[NodeRecord, ...]
    proven: bool
    notes: tuple[str, ...] = ()

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; outputs by name."""
        names = [output.name for output in self.session.get_outputs()]
        kinds = {value.type for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        with _as_bnfold_error("run"):
            run = self._run_beyond_numpy if _BFLOAT16 in kinds else self.session.run
            found = dict(zip(names, run(names, dict(feed)), strict=True))
        for name, value in found.items():
            if not isinstance(value, np.ndarray):
                raise UnverifiedError(f"output {name} is a {type(value).__name__} and no tensor; it can't be compared")
            if value.dtype == object:
                raise UnverifiedError(f"output {name} holds texts, and only numbers are compared")
        return found

    def _run_beyond_numpy(self, names: Sequence[str], feed: Mapping[str, Array]) -> list[Any]:
        """Run a model that takes or gives bfloat16, which ONNX Runtime has no arrays of."""
        given = {name: _to_value(array) for name, array in feed.items()}
        return [_to_array(value) for value in self.session.run_with_ort_values(list(names), given)]


def _to_value(array: Array) -> Any:
    kind = runtime().OrtValue
    if array.dtype != ml_dtypes.bfloat16:
        return kind.ortvalue_from_numpy(array)
    return kind.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), TensorProto.BFLOAT16)


def _to_array(value: Any) -> Any:
    if value.data_type() != _BFLOAT16:
        return value.numpy() if value.is_tensor() else value
    content = ctypes.string_at(value.data_ptr(), 2 * math.prod(value.shape()))
    return np.frombuffer(content, ml_dtypes.bfloat16).reshape(value.shape())


def open_session(model: bytes | Path, target: Target, *, allow_fallback: bool = False) -> OrtSession:
    """Open `model` on the provider that `target` asks for, and prove that its nodes are there.

    Raises `ProviderMissingError` where the provider isn't usable, `FallbackError` where nodes fell back to the CPU
    (unless allowed), `UnverifiedError` where ONNX Runtime isn't installed or doesn't know the provider.
    """
    ort = runtime()
    name = _known(ort, target)
    if name not in ort.get_available_providers():
        raise ProviderMissingError(
            f"provider {target.provider} is not in the installed ONNX Runtime; `bnfold doctor` tells what is"
        )
    session = _create(ort, model, target, name, {_RECORD: "1"})
    if name not in session.get_providers():  # get_available_providers() lists what was built in, not what loads
        raise ProviderMissingError(
            f"provider {target.provider} did not load, and ONNX Runtime went on with"
            f" {', '.join(map(short_name, session.get_providers()))}; `bnfold doctor` names the missing library"
        )
    nodes = assignment(session)
    fallen, notes = _fallen(model, nodes, short_name(name))
    if fallen and not allow_fallback:
        first = ", ".join(f"{node.name} ({node.operator})" for node in fallen[:3])
        raise FallbackError(f"{len(fallen)} of {len(nodes)} nodes fell back from {target.provider}: {first}")
    if name == CPU:
        return OrtSession(session, nodes, proven=session.get_providers() == [CPU])
    if not nodes and not allow_fallback:
        # A runtime that records no assignment still refuses a session with a fallback.
        session = _create(ort, model, target, name, {_NO_FALLBACK: "1"})
        if name not in session.get_providers():
            raise FallbackError(f"nodes fell back from {target.provider}")
    return OrtSession(session, nodes, bool(nodes), notes)


def _fallen(
    model: bytes | Path, nodes: tuple[NodeRecord, ...], provider: str
) -> tuple[list[NodeRecord], tuple[str, ...]]:
    """Give the nodes that run elsewhere, but for shape arithmetic, which ONNX Runtime keeps on the CPU by design."""
    elsewhere = [node for node in nodes if node.provider != provider]
    if not elsewhere:
        return [], ()
    from bnfold.checking.shape_nodes import shape_nodes

    shapes = shape_nodes(model)
    fallen = [node for node in elsewhere if (node.name, node.operator) not in shapes]
    count = len(elsewhere) - len(fallen)
    if not count:
        return fallen, ()
    note = (
        f"{count} of {len(nodes)} nodes compute shapes only, and ONNX Runtime runs those on the CPU beside {provider}"
    )
    return fallen, (note,)


def runtime() -> Any:
    """Import ONNX Runtime; `UnverifiedError` where there is none."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UnverifiedError(
            f"ONNX Runtime can't be imported ({error}); install bnfold[cpu] or bnfold[cuda]"
        ) from error
    return onnxruntime


def assignment(session: Any) -> tuple[NodeRecord, ...]:
    """Give the provider of every node (names from before the runtime's fusions); empty where it keeps no record."""
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    if tell is None:
        return ()
    return tuple(
        NodeRecord(node.name, node.op_type, short_name(part.ep_name)) for part in tell() for node in part.get_nodes()
    )


def _known(ort: Any, target: Target) -> str:
    known = ort.get_all_providers()
    name = target.full_name(known)
    if name is None:
        near = target.near(known)
        advice = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnverifiedError(f"ONNX Runtime knows no provider {target.provider!r}{advice}")
    return str(name)


def _create(ort: Any, model: bytes | Path, target: Target, name: str, entries: Mapping[str, str]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = _level(ort, target.option("level", "all"))
    if target.option("threads"):
        options.intra_op_num_threads = int(target.option("threads"))
    # Idle threads that spin take the cores from torch, which runs in turn with the session.
    for key, value in {"session.intra_op.allow_spinning": "0", **entries}.items():
        options.add_session_config_entry(key, value)
    provider_options = {key: value for key, value in target.options if key not in SESSION_OPTIONS}
    source = model if isinstance(model, bytes) else str(model)
    # A fallback is told by get_providers(), not by warnings and printed lines: those would end up amid --json.
    quiet = contextlib.redirect_stdout(io.StringIO())
    with _as_bnfold_error(f"load the model on {target.provider}"), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        if name in _NEED_CUDA and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # the CUDA libraries that pip installed lie where no loader looks
        return ort.InferenceSession(source, options, providers=[(name, provider_options)])


def _level(ort: Any, name: str) -> Any:
    levels = {
        "disable": "ORT_DISABLE_ALL",
        "basic": "ORT_ENABLE_BASIC",
        "extended": "ORT_ENABLE_EXTENDED",
        "layout": "ORT_ENABLE_LAYOUT",
        "all": "ORT_ENABLE_ALL",
    }
    found = getattr(ort.GraphOptimizationLevel, levels[name], None)
    if found is None:
        raise BnfoldError(f"this ONNX Runtime has no optimisation level {name!r}")
    return found


@contextlib.contextmanager
def _as_bnfold_error(what: str) -> Iterator[None]:
    """ONNX Runtime raises a class of its own for each status, all of them plain RuntimeErrors or Exceptions."""
    try:
        yield
    except Exception as error:
        if "fallback to CPU EP has been explicitly disabled" in str(error):
            raise FallbackError("nodes fell back to the CPU") from error
        raise UnverifiedError(f"ONNX Runtime could not {what}: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    """Join the lines: which sizes are wrong stands in the later ones."""
    return " ".join(str(error).split())[:300] or type(error).__name__
