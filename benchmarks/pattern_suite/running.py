"""Runs each tool in a process of its own; a pattern that kills it, or takes too long, costs that pattern alone."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pattern_suite.names import ONNX_TOOLS, TORCH_TOOLS

ROOT = Path(__file__).parents[2]
START = 20.0  # seconds that a tool may take to be imported
Json = dict[str, Any]


def torch_results(pythons: Sequence[str], old: Json, only: Sequence[str] | None, timeout: float) -> Iterator[Json]:
    """Run the PyTorch tools on their patterns; give the results after each tool.

    only: the tools to run; the others keep their old results. timeout: seconds for one pattern.
    """
    yield from _results("pattern_suite.torch_worker", TORCH_TOOLS, pythons, old, only, timeout)


def onnx_results(pythons: Sequence[str], old: Json, only: Sequence[str] | None, timeout: float) -> Iterator[Json]:
    """Run the ONNX tools on their patterns, as `torch_results` does."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PATTERNS"] = folder
        yield from _results("pattern_suite.onnx_worker", ONNX_TOOLS, pythons, old, only, timeout)


def _results(
    worker: str, tools: Sequence[str], pythons: Sequence[str], old: Json, only: Sequence[str] | None, timeout: float
) -> Iterator[Json]:
    patterns = list(_lines(pythons[0], worker, ["list"], START))
    names = [pattern["name"] for pattern in patterns]
    versions, results = dict(old.get("versions", {})), dict(old.get("results", {}))
    for tool in tools:
        if only is not None and tool not in only:
            continue
        python, versions[tool] = _found(pythons, worker, tool)
        results[tool] = _of_tool(python, worker, tool, names, timeout) if python else {}
        _say(f"{tool} {versions[tool] or 'is not installed'}: {_summary(results[tool])}")
        yield {"patterns": patterns, "versions": versions, "results": results}


def _found(pythons: Sequence[str], worker: str, tool: str) -> tuple[str | None, str | None]:
    """Give the first interpreter that can import the tool, and the tool's version."""
    for python in pythons:
        for version in _lines(python, worker, ["version", tool], START):
            if isinstance(version, str):
                return python, version
    return None, None


def _of_tool(python: str, worker: str, tool: str, names: Sequence[str], timeout: float) -> Json:
    found: Json = {}
    while len(found) < len(names):
        left = [name for name in names if name not in found]
        lines = 0
        for line in _lines(python, worker, [tool, *left], timeout):
            if isinstance(line, dict):
                found[line.pop("name")] = line
                lines += 1
            else:
                found[left[lines]] = {"status": "crash", "message": line}
    return found


def _lines(python: str, worker: str, arguments: Sequence[str], timeout: float) -> Iterator[Any]:
    """Give what each line of JSON says, and one text where the process ends early or takes too long for a line."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "ignore"}
    command = [python, "-m", worker, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        if process.stdout is None:
            raise OSError(f"{command}: no standard output")
        first, buffer = True, b""
        end = time.monotonic() + timeout + START
        while True:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not chunk:
                break
            buffer += chunk
            *complete, buffer = buffer.split(b"\n")
            if complete:
                first, end = False, time.monotonic() + timeout
            for line in complete:
                yield json.loads(line)
        if not ready:
            process.kill()
            yield f"took more than {timeout:.0f} s"
        elif process.wait() != 0 and arguments[0] not in ("list", "version"):
            yield f"the process ended with status {process.returncode}" + (" at its start" if first else "")
        elif process.returncode != 0 and arguments[0] == "list":
            raise OSError(f"{' '.join(command)} ended with status {process.returncode}")


def _summary(results: Json) -> str:
    kinds = [result["status"] for result in results.values()]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "nothing run"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
