"""The tools for ONNX models. Each reads a file and writes another."""

import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

Tool = Callable[[Path, Path], Any]


def bnfold(source: Path, target: Path) -> None:
    """bnfold."""
    from bnfold.adapters.onnx_file import fold_file

    fold_file(source, target)


def bnfold_max(source: Path, target: Path) -> None:
    """bnfold, level max."""
    from bnfold.adapters.onnx_file import fold_file

    fold_file(source, target, level="max")


def onnxsim(source: Path, target: Path) -> None:
    """onnxsim.simplify."""
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(model, target)


def onnxslim(source: Path, target: Path) -> None:
    """onnxslim.slim."""
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), target)


def onnxscript(source: Path, target: Path) -> None:
    """onnxscript.optimizer.optimize, and its rules for BatchNormalization."""
    import onnxscript.optimizer
    from onnxscript.rewriter import rewrite

    onnx.save(rewrite(onnxscript.optimizer.optimize(onnx.load(source))), target)


def onnxoptimizer(source: Path, target: Path) -> None:
    """onnxoptimizer.optimize with all fusions and eliminations."""
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source), onnxoptimizer.get_fuse_and_elimination_passes()), target)


def runtime(level: str) -> Tool:
    """ONNX Runtime's own optimiser, written to a file."""

    def run(source: Path, target: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return run


def aimet(source: Path, target: Path) -> None:
    """aimet_onnx.batch_norm_fold.fold_all_batch_norms_to_weight."""
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from onnxruntime.quantization.onnx_quantizer import ONNXModel

    model = ONNXModel(onnx.load(source))
    fold_all_batch_norms_to_weight(model)
    onnx.save(model.model, target)


TOOLS: dict[str, tuple[str, str, Tool]] = {
    "bnfold": ("bnfold", "bnfold", bnfold),
    "bnfold max": ("bnfold", "bnfold", bnfold_max),
    "onnxsim": ("onnxsim", "onnxsim", onnxsim),
    "onnxslim": ("onnxslim", "onnxslim", onnxslim),
    "onnxscript": ("onnxscript", "onnxscript", onnxscript),
    "onnxoptimizer": ("onnxoptimizer", "onnxoptimizer", onnxoptimizer),
    "ONNX Runtime basic": ("onnxruntime", "onnxruntime", runtime("ORT_ENABLE_BASIC")),
    "ONNX Runtime extended": ("onnxruntime", "onnxruntime", runtime("ORT_ENABLE_EXTENDED")),
    "AIMET": ("aimet-onnx", "aimet_onnx", aimet),
}


def version(tool: str) -> str:
    """Give the version of the package; ImportError where the tool can't be imported."""
    package, module, _ = TOOLS[tool]
    loaded = importlib.import_module(module)
    return str(loaded.__version__) if package == "bnfold" else importlib.metadata.version(package)
