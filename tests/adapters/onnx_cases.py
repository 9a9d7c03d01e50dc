"""Small ONNX models from text, and one check of a whole fold: the same function, a valid file, nothing left to fold."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.testing import assert_allclose
from onnx import numpy_helper, parser

from bnfold.adapters.onnx_file import fold_file
from bnfold.result import FoldResult

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
# Largest error of a right fold relative to the output's largest number; a fault of one channel is far above it.
CLOSE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2}


_BATCH_NORM = re.compile(r"BN(<[^>]*>)?\((\w+)(?:, (\d))?\)")


def numbers(name: str, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Random numbers of both signs, no two alike; a name that begins with `var` gives variances."""
    random = np.random.default_rng([seed, *name.encode()])
    drawn = random.uniform(0.5, 2, shape) if name.startswith("var") else random.normal(0.3, 1, shape)
    return np.asarray(drawn).astype(dtype)


def model(text: str, opset: int = 17, ir_version: int = 8, **tensors: object) -> onnx.ModelProto:
    """Parse `(inputs) => (outputs) { nodes }`, where BN(x) is a BatchNormalization with the constants of `batch_norm`.

    tensors: arrays, or shapes of random float32 initializers.
    """
    text = _BATCH_NORM.sub(r"BatchNormalization\1(\2, gamma\3, beta\3, mean\3, var\3)", text)
    head = (
        text if text.lstrip().startswith("<") else f'<ir_version: {ir_version}, opset_import: ["": {opset}]>\ng {text}'
    )
    proto = parser.parse_model(head)
    for name, given in tensors.items():
        array = given if isinstance(given, np.ndarray) else numbers(name, given)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def batch_norm(channels: int, prefix: str = "", dtype: str = "float32") -> dict[str, np.ndarray]:
    """Constants gamma, beta, mean, var of a BatchNorm, some gammas negative."""
    return {
        f"{part}{prefix}": numbers(f"{part}{prefix}", (channels,), dtype) for part in ("gamma", "beta", "mean", "var")
    }


def kinds(proto: onnx.ModelProto) -> list[str]:
    """The operators in order."""
    return [node.op_type for node in proto.graph.node]


def saved(folder: Path, text: str, **tensors: object) -> Path:
    """Write a `model` into a folder."""
    path = folder / "model.onnx"
    onnx.save(model(text, **tensors), path)
    return path


def run(path: Path, feeds: Mapping[str, np.ndarray], level: str = LEVELS[0]) -> list[np.ndarray]:
    """Run a file; ONNX Runtime folds by itself from its basic level up, so the default is none."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def feeds_of(proto: onnx.ModelProto, batch: int = 2) -> dict[str, np.ndarray]:
    """Random inputs; every symbol is `batch`."""
    given = {item.name for item in proto.graph.initializer}
    feeds = {}
    for item in proto.graph.input:
        if item.name not in given:
            kind = item.type.tensor_type
            shape = tuple(dim.dim_value or batch for dim in kind.shape.dim)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            drawn = np.random.default_rng(len(feeds)).normal(0, 2, shape)
            feeds[item.name] = np.asarray(drawn > 0 if dtype.kind == "b" else drawn).astype(dtype)
    return feeds


def fold_and_check(proto: onnx.ModelProto, folder: Path, **options: object) -> tuple[onnx.ModelProto, FoldResult]:
    """Fold a model from file to file; the result is valid, the same function, and has nothing left to fold."""
    source, target = folder / "model.onnx", folder / "folded.onnx"
    onnx.save(proto, source)
    result = fold_file(source, target, **options)
    folded = onnx.load(target)
    onnx.checker.check_model(str(target), full_check=True)
    onnx.shape_inference.infer_shapes(folded, check_type=True, strict_mode=True)
    feeds = feeds_of(proto)
    wanted = run(source, feeds)
    for level in LEVELS:
        for got, want in zip(run(target, feeds, level), wanted, strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            close = CLOSE.get(want.dtype.name, 0) * np.abs(want.astype(np.float64)).max(initial=0)
            assert_allclose(got, want, rtol=0, atol=close)
    assert not fold_file(target, folder / "again.onnx", **options).plan.folded
    assert len(folded.graph.node) <= len(proto.graph.node)
    return folded, result
