"""Fold time, peak memory and latency of PyTorch folds: bnfold beside torch.export, fx's fuse, torchao and AIMET.

    python benchmarks/torch_fold.py --to benchmarks/results/torch_fold [--network resnet50] [--compile]

Every tool runs in a process of its own, `--rounds` times, one tool after the other in each round; one that isn't
installed is said to be missing. Times are processor time of the one thread, medians, and the ratio to torch.export is
the median over the rounds. `--python AIMET=/path/to/python` runs a tool in an environment of its own. The result's
error is against the module in float64, relative to the unfolded module's own.
"""

import argparse
import importlib.metadata
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOOLS = ("none", "torch.export", "bnfold", "bnfold, in place", "fx fuse", "torchao pt2e", "AIMET")
NETWORKS = {"resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}
REPEATS = 7
COLUMNS = {
    "tool": "tool",
    "fold": "fold, s",
    "to_export": "times torch.export",
    "memory": "peak above the module, MiB",
    "left": "BatchNorms left",
    "eager": "eager, ms",
    "compiled": "compiled, ms",
    "ratio": "error ratio",
}


def main() -> None:
    """Write the results as JSON and as a Markdown table, or with --tool one row as JSON to the standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=NETWORKS, default="resnet152")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="time torch.compile too (minutes)")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH")
    parser.add_argument("--to", type=Path, help="where the results go, without the endings .json and .md")
    parser.add_argument("--tool", choices=TOOLS)
    arguments = parser.parse_args()
    if arguments.tool:
        print(json.dumps(measured(arguments.tool, arguments.network, arguments.size, arguments.compile)))
        return
    rounds = [{tool: row_of(tool, arguments) for tool in TOOLS} for _ in range(arguments.rounds)]
    content = {
        "network": arguments.network,
        "input": [2, 3, arguments.size, arguments.size],
        "rounds": arguments.rounds,
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rows": [summed_up(tool, rounds) for tool in TOOLS],
    }
    table = as_markdown(content)
    print(table)
    if arguments.to:
        Path(f"{arguments.to}.json").write_text(json.dumps(content, indent=1) + "\n")
        Path(f"{arguments.to}.md").write_text(table)


def as_markdown(content: dict[str, Any]) -> str:
    """Write the table."""
    shape = "x".join(map(str, content["input"]))
    lines = [
        f"# PyTorch folds of {content['network']}, {shape}, one thread\n",
        f"torch {content['torch']}, Python {content['python']}, {content['machine']}; {content['rounds']} rounds\n",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    lines += ["| " + " | ".join(map(_cell, map(row.get, COLUMNS))) + " |" for row in content["rows"]]
    return "\n".join(lines) + "\n"


def _cell(item: object) -> str:
    if isinstance(item, float):
        return f"{item:.0f}" if item >= 100 else f"{item:.3g}"
    return "-" if item is None else str(item)


def summed_up(tool: str, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Take the median of every number over the rounds, and the ratio to torch.export within each."""
    rows = [found[tool] for found in rounds]
    if any("missing" in row for row in rows):
        return {"tool": tool, "fold": next(row["missing"] for row in rows if "missing" in row)}
    summed = {
        key: statistics.median(row[key] for row in rows) if isinstance(rows[0][key], float) else rows[0][key]
        for key in rows[0]
    }
    exports = [found["torch.export"]["fold"] for found in rounds]
    summed["to_export"] = statistics.median(row["fold"] / export for row, export in zip(rows, exports, strict=True))
    return summed


def row_of(tool: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a tool in a process of its own."""
    python = dict(item.split("=", 1) for item in arguments.python).get(tool, sys.executable)
    command = [python, __file__, "--tool", tool, "--network", arguments.network, "--size", str(arguments.size)]
    done = subprocess.run(command + ["--compile"] * arguments.compile, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"missing": done.stderr.strip().splitlines()[-1][:80]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(tool: str, network: str, size: int, compiled: bool) -> dict[str, Any]:
    """Fold once to warm up on a small network, then time the fold of the real one."""
    import torch
    from torch_networks import ResNet, randomised

    torch.set_num_threads(1)
    torch.manual_seed(0)
    fold = folder(tool)
    small = torch.randn(2, 3, 32, 32)
    fold(randomised(ResNet((1, 1, 1, 1))), small)
    x = torch.randn(2, 3, size, size)
    torch.manual_seed(1)
    module = randomised(ResNet(NETWORKS[network]))
    with torch.no_grad():
        reference = module(x)
    before, began = _peak(), time.process_time()
    folded = fold(module, x)
    seconds, memory = time.process_time() - began, _peak() - before
    folded = folded.module() if isinstance(folded, torch.export.ExportedProgram) else folded
    row: dict[str, Any] = {"tool": tool, "fold": seconds, "memory": memory / 1024, "left": _left(folded)}
    row["eager"] = _latency(folded, x)
    row["compiled"] = _latency(torch.compile(folded), x) if compiled else None
    torch.manual_seed(1)
    truth = randomised(ResNet(NETWORKS[network])).double()
    with torch.no_grad():
        result, true = folded(x), truth(x.double())
    row["ratio"] = float(_rms(result - true) / _rms(reference - true))
    return row


def folder(tool: str) -> Callable[[Any, Any], Any]:
    """Give the tool's fold: a module and an input to a callable module."""
    import torch

    match tool:
        case "none":
            return lambda module, x: module
        case "torch.export":
            return _exported
        case "bnfold" | "bnfold, in place":
            import bnfold

            return lambda module, x: bnfold.fold(module, x, inplace=tool != "bnfold").model
        case "fx fuse":
            from torch.fx.experimental.optimization import fuse

            return lambda module, x: fuse(module)
        case "torchao pt2e":
            from torchao.quantization.pt2e.utils import _fuse_conv_bn_

            def by_torchao(module: Any, x: Any) -> Any:
                graph = torch.export.export(module, (x,)).module()
                _fuse_conv_bn_(graph)
                return graph

            return by_torchao
        case "AIMET":
            from aimet_torch.batch_norm_fold import fold_all_batch_norms

            def by_aimet(module: Any, x: Any) -> Any:
                fold_all_batch_norms(module, tuple(x.shape), dummy_input=x)
                return module

            return by_aimet
    raise ValueError(tool)


def _exported(module: Any, x: Any) -> Any:
    import torch

    with torch.no_grad():
        return torch.export.export(module, (x,))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _left(module: Any) -> int:
    import torch

    norms = sum(isinstance(part, torch.nn.modules.batchnorm._NormBase) for part in module.modules())
    graph = getattr(module, "graph", None)
    calls = 0 if graph is None else sum("batch_norm" in str(node.target) for node in graph.nodes)
    return max(norms, calls)


def _latency(module: Any, x: Any) -> float:
    import torch

    times = []
    with torch.no_grad():
        module(x)
        for _ in range(REPEATS):
            began = time.process_time()
            module(x)
            times.append(time.process_time() - began)
    return 1000 * statistics.median(times)


def _rms(error: Any) -> float:
    return float(error.double().square().mean().sqrt())


if __name__ == "__main__":
    main()
