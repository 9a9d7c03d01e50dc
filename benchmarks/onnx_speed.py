"""How long folding an ONNX file takes, and how much memory, beside other tools: whole processes, median of some rounds.

    python -m benchmarks.onnx_speed --peers PYTHON

PYTHON: an interpreter that has the other tools (onnxsim, onnxslim, onnxoptimizer, onnxscript, onnxruntime); those that
it hasn't are left out, by name. Each round runs every tool once, so that what else the machine does meets all of them;
no run finds the result of another. Every package is compiled and on the interpreter's path, as pip leaves it. bnfold is
the command, with its audit and its report.

bnfold ends when its result is on the disk, so that a power cut loses neither the old file nor the new; the others leave
theirs in memory, for the system to write. So two times are given: until the process ends, and until the result is on
the disk, by an fsync right after the process; and bnfold runs a second time as if it left it to the system, too.
Results go to benchmarks/results/onnx_speed.json and .md.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
COUNT = "import sys, onnx; print(sum(n.op_type == 'BatchNormalization' for n in onnx.load(sys.argv[1]).graph.node))"
LIMIT = 120  # seconds for one run
LOAD_SAVE = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
BNFOLD = (
    "import sys; from bnfold.commands import script;"
    "sys.argv = ['bnfold', 'fold', sys.argv[1], '-o', sys.argv[2]]; script()"
)
LEAVING = "bnfold, the disk left to the system"
TOOLS = {
    "copy": "import sys, shutil; shutil.copyfile(*sys.argv[1:])",
    "bnfold": BNFOLD,
    LEAVING: "import os; os.fsync = lambda descriptor: None;" + BNFOLD,
    "onnx, load and save": LOAD_SAVE,
    "onnxruntime, basic": (
        "import sys, onnxruntime as ort; o = ort.SessionOptions();"
        "o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC;"
        "o.optimized_model_filepath = sys.argv[2]; o.log_severity_level = 3;"
        "ort.InferenceSession(sys.argv[1], o, providers=['CPUExecutionProvider'])"
    ),
    "onnxscript, BatchNorm rules": (
        "import sys, onnx_ir as ir; from onnxscript.rewriter import rewrite;"
        "from onnxscript.rewriter.rules.common import _fuse_batchnorm as f;"
        "m = ir.load(sys.argv[1]); rewrite(m, f.rules); ir.save(m, sys.argv[2])"
    ),
    "onnxslim": "import sys, onnxslim; onnxslim.slim(sys.argv[1], sys.argv[2])",
    "onnxoptimizer": (
        "import sys, onnx, onnxoptimizer as o; m = onnx.load(sys.argv[1]);"
        "onnx.save(o.optimize(m, ['fuse_bn_into_conv', 'eliminate_unused_initializer']), sys.argv[2])"
    ),
    "onnxsim": "import sys, onnx, onnxsim; m, _ = onnxsim.simplify(sys.argv[1]); onnx.save(m, sys.argv[2])",
}
PACKAGES = {
    "copy": "shutil",
    LEAVING: "bnfold",
    "onnx, load and save": "onnx",
    "onnxruntime, basic": "onnxruntime",
    "onnxscript, BatchNorm rules": "onnxscript",
}


@dataclass(frozen=True)
class Row:
    """One tool on one model. Seconds are medians; peak_mib: resident, the largest of the runs.

    seconds: until the process ends. stored_seconds: until the result is on the disk.
    """

    model: str
    tool: str
    seconds: float | None
    stored_seconds: float | None
    processor_seconds: float | None
    peak_mib: float | None
    batch_norms_left: int | None
    note: str = ""


def measure(python: str, code: str, source: Path, target: Path) -> tuple[float, float, float, float] | str:
    """Run once; give the seconds of a Row and the peak in MiB, or what went wrong."""
    target.unlink(missing_ok=True)
    os.sync()  # what an earlier run left to be written isn't this one's
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        command = [python, "-c", code, str(source), str(target)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, cwd=source.parent)
        killer = threading.Timer(LIMIT, process.kill)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode == -9:
            return f"over {LIMIT} s, or out of memory"
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            return lines[-1][:100] if lines else f"exit status {process.returncode}"
    with target.open("rb") as result:
        os.fsync(result.fileno())
    return wall, time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def rounds(model: str, pythons: dict[str, str], source: Path, target: Path, runs: int) -> list[Row]:
    """Measure every tool on one model; what fails is not tried again. pythons: the interpreter that each tool has."""
    found: dict[str, list[tuple[float, float, float, float]]] = {tool: [] for tool in pythons}
    left, notes = dict[str, int](), dict[str, str]()
    for _ in range(runs):
        for tool in (tool for tool in pythons if tool not in notes):
            one = measure(pythons[tool], TOOLS[tool], source, target)
            if isinstance(one, str):
                notes[tool] = one
                continue
            found[tool].append(one)
            if tool not in left:
                counted = subprocess.run([sys.executable, "-c", COUNT, str(target)], capture_output=True, check=True)
                left[tool] = int(counted.stdout)
    return [_row(model, tool, found[tool], left.get(tool), notes.get(tool, "")) for tool in pythons]


def _row(model: str, tool: str, found: list[tuple[float, float, float, float]], left: int | None, note: str) -> Row:
    if note or not found:
        return Row(model, tool, None, None, None, None, None, note)
    walls, stored, processors, peaks = zip(*found, strict=True)
    median = statistics.median
    return Row(model, tool, median(walls), median(stored), median(processors), max(peaks), left)


def installed(folder: Path) -> str:
    """Give an interpreter with bnfold and this one's packages on its path.

    An editable install's finder takes ten milliseconds when Python starts, which no user's installation does.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    paths = (
        str(Path(__file__).parents[1]),
        *dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")),
    )
    (packages / "packages.pth").write_text("\n".join(paths))
    return str(python)


def has(python: str, tool: str) -> bool:
    """Whether the interpreter has the tool's package."""
    name = PACKAGES.get(tool, tool)
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


def environment(peers: str) -> dict[str, str]:
    """What the numbers depend on."""
    names = ("numpy", "onnx", "onnxruntime", "onnxscript", "onnxsim", "onnxslim", "onnxoptimizer")
    code = (
        "import importlib.metadata as m, json\n"
        "def v(n):\n try: return m.version(n)\n except m.PackageNotFoundError: return 'not installed'\n"
        f"print(json.dumps({{n: v(n) for n in {names}}}))"
    )
    versions = json.loads(subprocess.run([peers, "-c", code], capture_output=True, check=True).stdout)
    machine = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    load = f"{os.getloadavg()[0]:.1f} at the end; processor seconds are the better measure on a busy machine"
    return {**machine, "cores": str(os.cpu_count()), "load average": load, **versions}


def markdown(rows: list[Row], about: dict[str, str]) -> str:
    """Give the results as a page."""
    lines = ["# Folding ONNX files: whole processes", "", "Written by `python -m benchmarks.onnx_speed`.", ""]
    for model in dict.fromkeys(one.model for one in rows):
        lines += [f"## {model}", "", "| tool | seconds | on the disk | processor | peak MiB | BatchNorm left | |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for one in (one for one in rows if one.model == model):
            numbers = (one.seconds, one.stored_seconds, one.processor_seconds)
            shown = ["" if number is None else f"{number:.2f}" for number in numbers]
            shown.append("" if one.peak_mib is None else f"{one.peak_mib:.0f}")
            left = "" if one.batch_norms_left is None else str(one.batch_norms_left)
            lines.append(f"| {one.tool} | {' | '.join(shown)} | {left} | {one.note} |")
        lines += ["", *beside(model, rows), ""]
    lines += ["## Environment", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    return "\n".join(lines)


def beside(model: str, rows: list[Row]) -> list[str]:
    """Compare bnfold with the fastest of the others that fold every BatchNorm."""
    times = {
        one.tool: (one.seconds, one.stored_seconds, one.processor_seconds)
        for one in rows
        if one.model == model and one.batch_norms_left == 0
    }
    if len(times) < 2 or "bnfold" not in times:
        return []
    own, leaving = times.pop("bnfold"), times.pop(LEAVING, None)
    fastest = min(times, key=lambda tool: times[tool][2] or math.inf)
    of = [mine / other for mine, other in zip(own, times[fastest], strict=True) if mine and other]
    lines = [
        f"Of the fastest other, {fastest}, bnfold takes {of[1]:.2f} of the seconds until the result is on the disk, "
        f"and {of[2]:.2f} of the processor's."
    ]
    seconds = times[fastest][0]
    if leaving and leaving[0] and seconds:
        lines.append(
            f"Until the process ends it takes {of[0]:.2f}, though it alone waits for the disk; where that is left to "
            f"the system, as the others do, {leaving[0] / seconds:.2f}."
        )
    return lines


def main() -> None:
    """Make the models, measure every tool on them, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=sys.executable, help="an interpreter that has the other tools")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    rows: list[Row] = []
    package = Path(__file__).parents[1] / "bnfold"
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        own = installed(Path(folder) / "own")
        pythons = {tool: own if tool in ("copy", "bnfold", LEAVING) else arguments.peers for tool in TOOLS}
        available = {tool: python for tool, python in pythons.items() if has(python, tool)}
        source, target = Path(folder) / "model.onnx", Path(folder) / "result.onnx"
        for model, make in (("ResNet-152, 241 MB", "resnet152"), ("a chain of 1,000 conv and BatchNorm", "chain")):
            code = f"import sys, onnx; from benchmarks.onnx_models import {make} as f; onnx.save(f(), sys.argv[1])"
            # A process of its own: a child's peak counts what its parent held when it was started.
            subprocess.run([sys.executable, "-c", code, str(source)], check=True)
            rows += rounds(model, available, source, target, arguments.runs)
            rows += [
                Row(model, tool, None, None, None, None, None, "not installed")
                for tool in TOOLS
                if tool not in available
            ]
            print(*rows[-len(TOOLS) :], sep="\n", flush=True)
    RESULTS.mkdir(exist_ok=True)
    about = environment(arguments.peers)
    found = {"environment": about, "rows": [asdict(one) for one in rows]}
    (RESULTS / "onnx_speed.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "onnx_speed.md").write_text(markdown(rows, about))


if __name__ == "__main__":
    main()
