"""Peak memory of folding a model of several GB whose weights are external data, made for it with a sparse file.

    python -m benchmarks.onnx_memory [--layers 14]

The promise: above the interpreter with its imports, at most 1.2 x the largest tensor that changes, plus a fixed amount.
Results go to benchmarks/results/onnx_memory.json and .md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

RESULTS = Path(__file__).parent / "results"
WIDTH = 8192  # a weight of 8192 x 8192 float32 is 256 MiB
ALLOWED, FIXED = 1.2, 64  # times the largest changed tensor; MiB
IMPORTS = "from bnfold.adapters.onnx_file import fold_file"
FOLD = f"import sys; {IMPORTS}; fold_file(*sys.argv[1:])"


def build(folder: Path, layers: int) -> Path:
    """Write a chain of Gemm, BatchNorm and ReLU; every third weight has no BatchNorm behind it and stays as it is."""
    random = np.random.default_rng(0)
    nodes, tensors, x, size = [], [], "x", WIDTH * WIDTH * 4
    for index in range(layers):
        weight = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH], raw_data=b"")
        set_external_data(weight, "weights.bin", index * size, size)
        weight.ClearField("raw_data")
        tensors.append(weight)
        nodes.append(helper.make_node("Gemm", [x, f"w{index}"], [f"g{index}"], name=f"gemm{index}", transB=1))
        x = f"g{index}"
        if index % 3 != 2:
            parts = [f"{part}{index}" for part in ("gamma", "beta", "mean", "var")]
            drawn = random.uniform(0.5, 2, (len(parts), WIDTH)).astype(np.float32)
            tensors += [numpy_helper.from_array(*pair) for pair in zip(drawn, parts, strict=True)]
            nodes.append(helper.make_node("BatchNormalization", [x, *parts], [f"n{index}"], name=f"bn{index}"))
            x = f"n{index}"
        nodes.append(helper.make_node("Relu", [x], [f"r{index}"], name=f"relu{index}"))
        x = f"r{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    with (folder / "weights.bin").open("wb") as data:
        data.truncate(layers * size)
    return folder / "model.onnx"


def peak(code: str, *arguments: str) -> tuple[float, float]:
    """Run a process; give its peak in MiB and its seconds."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit status {process.returncode}")
    return usage.ru_maxrss / 1024, time.perf_counter() - began


def main() -> None:
    """Build, measure, write the results; exit status 1 where the promise isn't kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=14)
    arguments = parser.parse_args()
    largest = WIDTH * WIDTH * 4 / (1 << 20)
    with tempfile.TemporaryDirectory() as folder:
        source = build(Path(folder), arguments.layers)
        imports, _ = peak(IMPORTS)
        folded, seconds = peak(FOLD, str(source), str(Path(folder) / "folded.onnx"))
        kinds = [n.op_type for n in onnx.load(Path(folder) / "folded.onnx", load_external_data=False).graph.node]
    found = {
        "model_gib": arguments.layers * largest / 1024,
        "largest_changed_tensor_mib": largest,
        "imports_mib": round(imports, 1),
        "peak_mib": round(folded, 1),
        "above_imports_mib": round(folded - imports, 1),
        "allowed_mib": ALLOWED * largest + FIXED,
        "seconds": round(seconds, 1),
        "batch_norms_left": kinds.count("BatchNormalization"),
        "environment": {"python": platform.python_version(), "numpy": np.__version__, "onnx": onnx.__version__},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "onnx_memory.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# Folding a model of several GB", "", "Written by `python -m benchmarks.onnx_memory`.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key.replace('_', ' ')} | {value} |" for key, value in found.items()), ""]
    (RESULTS / "onnx_memory.md").write_text("\n".join(lines))
    print("\n".join(lines))
    if found["above_imports_mib"] > found["allowed_mib"] or found["batch_norms_left"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
