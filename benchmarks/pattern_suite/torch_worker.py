"""Runs one tool on the PyTorch patterns of the command line, and prints a line of JSON for each."""

import contextlib
import json
import os
import sys
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pattern_suite.torch_cases import CASES
from pattern_suite.torch_counting import count
from pattern_suite.torch_tools import TOOLS, version

# A right result's error may be as large as the unfolded model's own times 10, or this part of the output's size.
FLOOR = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.float64: 1e-10}


def outputs(run: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Give the outputs for the inputs and for their opposites, in float64."""
    with torch.no_grad():
        results = [run(*inputs), run(*(-tensor for tensor in inputs))]
        return [leaf.double() for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]


def error(got: list[Tensor], truth: list[Tensor]) -> float:
    """Give the largest error relative to each output's largest number."""
    worst = 0.0
    for found, wanted in zip(got, truth, strict=True):
        if found.shape != wanted.shape or not torch.isfinite(found).all():
            return float("inf")
        worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)))
    return worst


def judged(tool: str, name: str) -> dict[str, Any]:
    """Run the tool on a fresh copy, and compare with the float64 truth."""
    case = CASES[name]
    module, inputs = case.build()
    own = error(outputs(module, inputs), truth := outputs(case.build()[0].double(), tuple(x.double() for x in inputs)))
    try:
        result = TOOLS[tool][1](case.build()[0], inputs)
        affines, operators = count(result, inputs)
        found = error(outputs(result, inputs), truth)
    except Exception as failure:  # noqa: BLE001 - a tool may raise anything, and what it raises is recorded
        said = (str(failure).strip().splitlines() or [""])[0]
        kind = "refused" if type(failure).__module__.startswith("bnfold.") else "error"
        return {"status": kind, "message": f"{type(failure).__name__}: {said}"[:300]}
    right = found <= max(10 * own, FLOOR[inputs[0].dtype])
    return {
        "status": "right" if right else "wrong",
        "affines": affines,
        "operators": operators,
        "error": float(f"{found:.2g}"),
        "own error": float(f"{own:.2g}"),
    }


def before(name: str) -> dict[str, Any]:
    """Count what the pattern computes as it comes."""
    module, inputs = CASES[name].build()
    affines, operators = count(module, inputs)
    return {"affines": affines, "operators": operators}


def main() -> None:
    """Arguments: "list"; or "version", TOOL; or TOOL and names."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # tools print as they like
    tool, *names = sys.argv[1:]
    if tool == "list":
        for case in CASES.values():
            fields = {"name": case.name, "group": case.group, "least": case.least, "note": case.note}
            out.write(json.dumps(fields | before(case.name)) + "\n")
        return
    if tool == "version":
        out.write(json.dumps(version(names[0])) + "\n")
        return
    for name in names:
        with contextlib.redirect_stdout(sys.stderr):
            found = judged(tool, name)
        out.write(json.dumps({"name": name} | found) + "\n")


if __name__ == "__main__":
    main()
