"""Fold time, peak memory and latency of PyTorch folds: bnfold beside torch.export, fx's fuse, torchao and AIMET.

    python benchmarks/torch_fold.py [--network resnet152] [--size 64] [--compile] > benchmarks/results/torch_fold.md

Every tool runs in a process of its own; one that isn't installed is said to be missing. The result's error is against
the module in float64, relative to the unfolded module's own.
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
from typing import Any

TOOLS = ("none", "torch.export", "bnfold", "bnfold, in place", "fx fuse", "torchao pt2e", "AIMET")
NETWORKS = {"resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}
REPEATS = 7


def main() -> None:
    """Print a Markdown table, or with --tool one row as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=NETWORKS, default="resnet152")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--compile", action="store_true", help="time torch.compile too (minutes)")
    parser.add_argument("--tool", choices=TOOLS)
    arguments = parser.parse_args()
    if arguments.tool:
        print(json.dumps(measured(arguments.tool, arguments.network, arguments.size, arguments.compile)))
        return
    rows = [row_of(tool, arguments) for tool in TOOLS]
    print(f"# PyTorch folds of {arguments.network}, 2x3x{arguments.size}x{arguments.size}, one thread\n")
    print(f"torch {importlib.metadata.version('torch')}, Python {platform.python_version()}, {platform.machine()}\n")
    print("| tool | fold, s | peak above the module, MiB | BatchNorms left | eager, ms | compiled, ms | error ratio |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(str(row.get(key, "")) for key in _COLUMNS) + " |")


_COLUMNS = ("tool", "fold", "memory", "left", "eager", "compiled", "ratio")


def row_of(tool: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a tool in a process of its own."""
    command = [sys.executable, __file__, "--tool", tool, "--network", arguments.network, "--size", str(arguments.size)]
    done = subprocess.run(command + ["--compile"] * arguments.compile, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"tool": tool, "fold": done.stderr.strip().splitlines()[-1][:80]}
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
    module, x = randomised(ResNet(NETWORKS[network])), torch.randn(2, 3, size, size)
    with torch.no_grad():
        reference = module(x)
    before, began = _peak(), time.perf_counter()
    folded = fold(module, x)
    seconds, memory = time.perf_counter() - began, _peak() - before
    row = {"tool": tool, "fold": f"{seconds:.2f}", "memory": f"{memory / 1024:.0f}", "left": _left(folded)}
    row["eager"] = f"{_latency(folded, x):.0f}"
    row["compiled"] = f"{_latency(torch.compile(folded), x):.0f}" if compiled else "-"
    with torch.no_grad():
        result, truth = folded(x), randomised(module).double()(x.double()) if tool != "bnfold, in place" else None
    row["ratio"] = "-" if truth is None else f"{_rms(result - truth) / _rms(reference - truth):.2f}"
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
        return torch.export.export(module, (x,)).module()


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
            began = time.perf_counter()
            module(x)
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _rms(error: Any) -> float:
    return float(error.double().square().mean().sqrt())


if __name__ == "__main__":
    main()
