"""Runs one tool on the ONNX patterns of the command line, and prints a line of JSON for each.

The models, inputs and truths lie in the folder that PATTERNS names; `list` puts them there.
"""

import contextlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime

from pattern_suite.onnx_cases import CASES
from pattern_suite.onnx_counting import count

Arrays = dict[str, np.ndarray[Any, Any]]
# A right result's error may be as large as the unfolded model's own times 10, or this part of the output's size.
FLOOR = {"float32": 1e-5, "float16": 1e-2, "float64": 1e-10}


def place(name: str, suffix: str) -> Path:
    """Tell where a pattern's file lies."""
    return Path(os.environ["PATTERNS"]) / f"{list(CASES).index(name):03}{suffix}"


def run(path: Path, feeds: Arrays) -> Arrays:
    """Run a file in ONNX Runtime without optimisation, which from the basic level on folds by itself."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def error(got: Arrays, truth: Arrays) -> float:
    """Give the largest error relative to each output's largest number."""
    worst = 0.0
    for name, wanted in truth.items():
        found = got[name].astype(np.float64)
        if found.shape != wanted.shape or not np.isfinite(found).all():
            return float("inf")
        worst = max(worst, float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)))
    return worst


def written(name: str) -> dict[str, Any]:
    """Write a pattern's model, inputs and float64 truth; tell what it computes as it comes."""
    from bnfold.checking.torch_onnx import OnnxSubject

    case = CASES[name]
    model = case.model()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, place(name, ".onnx"))
    feeds = case.feeds(model)
    subject = OnnxSubject(overridden(model, feeds), name)
    truth = {
        key: np.asarray(value, np.float64)
        for key, value in subject.truth([feeds[spec.name] for spec in subject.inputs]).items()
    }
    own = error(run(place(name, ".onnx"), feeds), truth)
    if own > 10 * FLOOR[subject.dtype]:
        raise ValueError(f"{name}: the float64 truth and ONNX Runtime differ by {own:.2g}")
    np.savez(place(name, ".feeds.npz"), **feeds)
    np.savez(place(name, ".truth.npz"), **truth)
    place(name, ".json").write_text(json.dumps({"own": own, "dtype": subject.dtype}))
    affines, operators = count(model)
    return {
        "name": name, "group": case.group, "least": case.least, "note": case.note, "affines": affines,
        "operators": operators,
    }  # fmt: skip


def overridden(model: onnx.ModelProto, feeds: Arrays) -> onnx.ModelProto:
    """Give the model with what the caller overrides as constants."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.name in feeds:
            tensor.CopyFrom(onnx.numpy_helper.from_array(feeds[tensor.name], tensor.name))
            model.graph.input.remove(next(item for item in model.graph.input if item.name == tensor.name))
    return model


def interface(model: onnx.ModelProto) -> tuple[Any, ...]:
    """Give the names, types and defaults of inputs, and the names and types of outputs."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {item.name: (item.type.tensor_type.elem_type, item.name in stored) for item in model.graph.input}
    return inputs, {item.name: item.type.tensor_type.elem_type for item in model.graph.output}


def judged(tool: str, name: str, target: Path) -> dict[str, Any]:
    """Run the tool on the pattern's file, and compare with the float64 truth."""
    from pattern_suite.onnx_tools import TOOLS

    source = place(name, ".onnx")
    try:
        TOOLS[tool][2](source, target)
        result = onnx.load(target)
    except Exception as failure:  # noqa: BLE001 - a tool may raise anything, and what it raises is recorded
        kind = "refused" if type(failure).__module__.startswith("bnfold.") else "error"
        return {"status": kind, "message": said(failure)}
    affines, operators = count(result)
    known = json.loads(place(name, ".json").read_text())
    counted = {"affines": affines, "operators": operators}
    if interface(result) != interface(onnx.load(source)):
        return {"status": "interface", "message": "inputs or outputs are others than before", **counted}
    try:
        if not any(node.domain for node in result.graph.node):
            onnx.checker.check_model(result, full_check=True)
        got = run(target, dict(np.load(place(name, ".feeds.npz"))))
    except Exception as failure:  # noqa: BLE001 - as above
        return {"status": "invalid", "message": said(failure), **counted}
    found = error(got, dict(np.load(place(name, ".truth.npz"))))
    right = found <= max(10 * known["own"], FLOOR[known["dtype"]])
    errors = {"error": float(f"{found:.2g}"), "own error": float(f"{known['own']:.2g}")}
    return {"status": "right" if right else "wrong", **counted, **errors}


def said(failure: Exception) -> str:
    """Give an exception's type and first line."""
    return f"{type(failure).__name__}: {(str(failure).strip().splitlines() or [''])[0]}"[:300]


def main() -> None:
    """Arguments: "list"; or "version", TOOL; or TOOL and names."""
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # tools print as they like
    tool, *names = sys.argv[1:]
    if tool == "list":
        for name in CASES:
            out.write(json.dumps(written(name)) + "\n")
        return
    if tool == "version":
        from pattern_suite.onnx_tools import version

        out.write(json.dumps(version(names[0])) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        for index, name in enumerate(names):
            target = Path(folder) / f"{index}.onnx"
            out.write(json.dumps({"name": name} | judged(tool, name, target)) + "\n")


if __name__ == "__main__":
    main()
