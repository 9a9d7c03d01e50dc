"""Which planted faults each checker finds: `python -m benchmarks.checker_faults [-o FILE]`, from a checkout.

Peers are run as their own command lines run them: both models in ONNX Runtime at its default level, inputs uniform in
[0, 1), their default tolerances. A peer that is not installed is left out.
"""

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import platform
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from bnfold.checking import check
from tests.checking.building import Network, networks
from tests.checking.faults import FAULTS

SCALES = (1.0, 1e3, 1e-4)
Checker = Callable[[onnx.ModelProto, onnx.ModelProto, Network], bool]


def bnfold(reference: onnx.ModelProto, candidate: onnx.ModelProto, network: Network) -> bool:
    """Whether `bnfold check` passes."""
    return check(reference, candidate, localise=False).exit_status == 0


def outputs_alone(reference: onnx.ModelProto, candidate: onnx.ModelProto, network: Network) -> bool:
    """Whether `bnfold check` passes without its audit of the weights."""
    return check(reference, candidate, localise=False, audit=()).exit_status == 0


def onnxsim(reference: onnx.ModelProto, candidate: onnx.ModelProto, network: Network) -> bool:
    """onnxsim's own comparison, five random inputs."""
    compare = importlib.import_module("onnxsim.model_checking").compare
    models = [onnx.shape_inference.infer_shapes(model) for model in (candidate, reference)]  # it wants shapes
    return bool(compare(*models, n_times=5, input_shapes={"x": [1, *network.shape]}, verbose=False))


def onnxslim(reference: onnx.ModelProto, candidate: onnx.ModelProto, network: Network) -> bool:
    """onnxslim's comparison of two sets of outputs."""
    utils = importlib.import_module("onnxslim.utils")
    outputs = [_outputs(model, network) for model in (reference, candidate)]
    return bool(utils.check_result(*outputs))


def polygraphy(reference: onnx.ModelProto, candidate: onnx.ModelProto, network: Network) -> bool:
    """`polygraphy run --onnxrt` of both, compared at its default tolerances."""
    backend = importlib.import_module("polygraphy.backend.onnxrt")
    comparator = importlib.import_module("polygraphy.comparator")
    tensors = importlib.import_module("polygraphy.common").TensorMetadata()
    tensors.add("x", dtype=np.float32, shape=(1, *network.shape))
    loader = comparator.DataLoader(input_metadata=tensors)
    runners = [
        backend.OnnxrtRunner(backend.SessionFromOnnx(model.SerializeToString()), name=name)
        for name, model in (("reference", reference), ("candidate", candidate))
    ]
    results = comparator.Comparator.run(runners, data_loader=loader)
    return bool(comparator.Comparator.compare_accuracy(results))


def torch_testing(reference: onnx.ModelProto, candidate: onnx.ModelProto, network: Network) -> bool:
    """torch.testing.assert_close, as torch.onnx's verification uses it."""
    torch = importlib.import_module("torch")
    ours, theirs = (_outputs(model, network) for model in (reference, candidate))
    try:
        torch.testing.assert_close(theirs, ours)
    except (AssertionError, ValueError, TypeError):
        return False
    return True


CHECKERS: dict[str, tuple[str, Checker]] = {
    "bnfold": ("bnfold", bnfold),
    "bnfold, outputs alone": ("bnfold", outputs_alone),
    "Polygraphy": ("polygraphy", polygraphy),
    "onnxsim": ("onnxsim", onnxsim),
    "onnxslim": ("onnxslim", onnxslim),
    "torch.testing": ("torch", torch_testing),
}


def _outputs(model: onnx.ModelProto, network: Network) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((1, *network.shape), np.float32)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def passes(checker: Checker, reference: onnx.ModelProto, candidate: onnx.ModelProto, network: Network) -> bool:
    """Whether a checker passes the pair; an error is no pass."""
    hidden = io.StringIO()
    try:
        with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
            return checker(reference, candidate, network)
    except Exception:  # noqa: BLE001  (peers raise what they like)
        return False


def cases() -> Iterator[tuple[str, Network, onnx.ModelProto, onnx.ModelProto]]:
    """Give every planted fault, and the right fold of every network, at every scale."""
    for scale in SCALES:
        for network in networks(scale):
            reference = network.model()
            yield "a right fold", network, reference, network.model(fold=True)
            for i, (kind, fault) in enumerate(FAULTS.items()):
                candidate = fault(network, np.random.default_rng(i))
                if candidate is not None:
                    yield kind, network, reference, candidate


def counted() -> dict[str, Any]:
    """Run everything; gives the environment, and by kind of fault how many cases there are and who stopped how many."""
    able = {name: checker for name, (package, checker) in CHECKERS.items() if _version(package)}
    total: Counter[str] = Counter()
    stopped: dict[str, Counter[str]] = {name: Counter() for name in able}
    for kind, network, reference, candidate in cases():
        total[kind] += 1
        for name, checker in able.items():
            stopped[name][kind] += not passes(checker, reference, candidate, network)
    packages = ("bnfold", "onnxruntime", *(CHECKERS[name][0] for name in able))
    return {
        "environment": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "cases": dict(total),
        "stopped": {name: dict(count) for name, count in stopped.items()},
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """Give the lines of the table, in Markdown."""
    total, stopped = found["cases"], found["stopped"]
    yield "# Planted faults found, by checker\n"
    yield "; ".join(f"{name} {version}" for name, version in found["environment"].items()) + "."
    yield "Eight networks, outputs scaled by 1, 1e3 and 1e-4. The first row should be 0, every other one complete.\n"
    yield "| | cases | " + " | ".join(stopped) + " |"
    yield "|---|---|" + "---|" * len(stopped)
    right = "a right fold"
    yield f"| right folds flagged | {total[right]} | " + " | ".join(str(one[right]) for one in stopped.values()) + " |"
    for kind in FAULTS:
        yield f"| {kind} | {total[kind]} | " + " | ".join(str(one[kind]) for one in stopped.values()) + " |"
    faults = sum(total[kind] for kind in FAULTS)
    sums = [sum(one[kind] for kind in FAULTS) for one in stopped.values()]
    yield f"| **all faults** | **{faults}** | " + " | ".join(f"**{count}**" for count in sums) + " |"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Print the table, or write it with the figures as JSON beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("POLYGRAPHY_AUTOINSTALL_DEPS", "0")
    importlib.import_module("torch").set_num_threads(1)
    onnxruntime.set_default_logger_severity(4)
    found = counted()
    text = "\n".join(table(found)) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
        arguments.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
