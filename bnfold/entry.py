"""The functions of `import bnfold` that take a model of any kind; what each kind needs is imported when it comes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import BnfoldError
from bnfold.result import ExportResult, FoldResult

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - a type, never imported at run time

    from bnfold.plan import Plan


def fold(
    model: Any,
    example_inputs: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    output: "str | Path | None" = None,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    plan: "Plan | None" = None,
    dry_run: bool = False,
    inplace: bool = False,
    **options: Any,
) -> FoldResult:
    """Fold every BatchNorm that can be folded.

    model: an nn.Module in eval mode (with example_inputs: one tensor, or the positional arguments; kwargs: the
    keyword ones), an ExportedProgram, an onnx.ModelProto, or the path of a file of any kind. It stays as it is.
    output: for a path, the file to write (default: MODEL.folded.EXT). level: "default" never makes the model slower,
    "max" removes all that can be removed exactly. only, skip: shell patterns of the affines' names. plan: a fold to
    carry out, in place of finding one. dry_run: only plan. inplace: change the module itself, or replace the file.
    options: more of what the kind takes: `bake` (modules); `freeze_inputs`, `external_data` (ONNX); `to`, `arch`,
    `arch_kwargs`, `trust`, `max_bytes` (PyTorch files).
    The result holds the folded model (for a path, the path that was written), the plan and the graph.
    Raises BnfoldError, and its subclasses UnsafeError, DifferentError and UnverifiedError; nothing is changed then.
    """
    common: dict[str, Any] = {"level": level, "only": only, "skip": skip, "plan": plan}
    kinds = _kinds(model)
    is_module = "torch.nn.modules.module.Module" in kinds
    if kwargs and not is_module:
        raise BnfoldError("kwargs: only an nn.Module is called with them; leave them out")
    if output is not None and not isinstance(model, (str, Path)):
        raise BnfoldError("output: only a file is folded into another; leave it out and save result.model")
    if isinstance(model, (str, Path)):
        return _fold_path(Path(model), example_inputs, output, {**common, "dry_run": dry_run, **options}, inplace)
    if is_module:
        from bnfold.adapters.torch_module import fold_module

        return fold_module(model, example_inputs, kwargs, dry_run=dry_run, inplace=inplace, **common, **options)
    if inplace:
        raise BnfoldError(f"a {type(model).__name__} isn't changed in place; leave inplace out and take result.model")
    if "torch.export.exported_program.ExportedProgram" in kinds:
        from bnfold.adapters.torch_program import fold_program

        _refuse_inputs(example_inputs, "an ExportedProgram")
        return fold_program(model, dry_run=dry_run, **common, **options)
    if any(kind.endswith(".ModelProto") for kind in kinds):
        from bnfold.adapters.onnx_file import fold_proto

        _refuse_inputs(example_inputs, "a ModelProto")
        return fold_proto(model, dry_run=dry_run, **common, **options)
    raise BnfoldError(
        f"can't fold a {type(model).__name__}; wanted an nn.Module, an ExportedProgram, a ModelProto or a path"
    )


def _fold_path(
    path: Path, inputs: Any, output: "str | Path | None", options: dict[str, Any], inplace: bool
) -> FoldResult:
    from bnfold.formats import Kind, kind_of

    if kind_of(path) is Kind.ONNX:
        from bnfold.adapters import onnx_file

        _refuse_inputs(inputs, "an ONNX file")
        return onnx_file.fold_file(path, output, in_place=inplace, **options)
    from bnfold.adapters import torch_file

    return torch_file.fold_file(path, output, inputs=inputs, in_place=inplace, **options)


def _refuse_inputs(inputs: Any, what: str) -> None:
    if inputs is not None:
        raise BnfoldError(f"example_inputs: {what} needs none; leave them out (where the result goes is output=)")


def export(
    model: Any,
    example_inputs: Any,
    path: "str | Path",
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportResult:
    """Fold a PyTorch model, write it as ONNX, and hold the file to the model.

    model: an nn.Module in eval mode, an ExportedProgram, or the path of a file of one (example_inputs may be None
    where the file tells them). options: as `bnfold.adapters.torch_onnx.export` takes them (`fold`, `opset`,
    `dynamic`, `simplify`, `verify`, `providers`, ...), for a path also `arch`, `arch_kwargs`, `trust`, `max_bytes`.
    Raises BnfoldError and its subclasses; an old file at `path` then stays as it was.
    """
    from bnfold.adapters import torch_onnx

    if isinstance(model, (str, Path)):
        from bnfold.adapters.torch_load import load_module

        given = {name: options.pop(name) for name in ("arch", "arch_kwargs", "trust", "max_bytes") if name in options}
        loaded = load_module(model, inputs=example_inputs, **given)
        model, example_inputs = loaded.program or loaded.module, loaded.example_inputs
        if not example_inputs:
            raise BnfoldError("the file doesn't tell what the model takes; give --input, for example 1x3x224x224")
    return torch_onnx.export(model, example_inputs, path, kwargs, **options)


def load(
    path: "str | Path",
    *,
    arch: str | None = None,
    arch_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
    max_bytes: int | None = None,
) -> "nn.Module":
    """Open a PyTorch model file and give the module, in eval mode on the CPU; a folded one comes back folded.

    arch, arch_kwargs: what builds the network of a state_dict: a name of bnfold.models, package.module:Factory or
    path/file.py:Factory. trust: let the file run code. max_bytes: the most that an archive may unpack to.
    Raises BnfoldError for a file that can't be used, UnsafeError for one that can't be opened safely.
    """
    from bnfold.adapters.torch_load import load_module

    return load_module(path, arch=arch, arch_kwargs=arch_kwargs, trust=trust, max_bytes=max_bytes).module


def _kinds(model: object) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__}
