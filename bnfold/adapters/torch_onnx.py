"""PyTorch to ONNX: capture with dynamic shapes, fold the graph, export without the exporter's own folding, verify."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from bnfold import __version__
from bnfold.adapters.onnx_file import merged_proto
from bnfold.adapters.torch_capture import Arguments, CaptureError, arguments, exported, quietly, uncompiled
from bnfold.adapters.torch_half import half_model, half_proto
from bnfold.adapters.torch_module import read_at, require_ready
from bnfold.adapters.torch_onnx_clean import cleaned, in_opset, with_names, with_properties
from bnfold.adapters.torch_onnx_write import simplified, verifier, write
from bnfold.adapters.torch_program import fold_program, functionalised
from bnfold.adapters.torch_sizes import same_at_other_sizes
from bnfold.adapters.torch_truth import fresh
from bnfold.errors import BnfoldError
from bnfold.folding_files import read_plan
from bnfold.plan import Plan
from bnfold.plan_json import digest
from bnfold.result import ExportResult, FoldResult

BATCH: Mapping[int, str] = {0: "batch"}


@uncompiled()
def export(
    model: "nn.Module | ExportedProgram",
    example_inputs: Any,
    path: str | Path,
    kwargs: Mapping[str, Any] | None = None,
    *,
    fold: bool = True,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    plan: Plan | None = None,
    plan_file: Path | None = None,
    opset: int | None = None,
    dynamic: Mapping[int, str] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    merge: bool = True,
    simplify: bool = False,
    half: bool = False,
    verify: bool = True,
    providers: str | Sequence[str] = ("cpu",),
    properties: Mapping[str, str] | None = None,
) -> ExportResult:
    """Fold a model, write it as ONNX, and hold the file to the PyTorch model.

    model: a module in eval mode, or an exported program. example_inputs: one tensor or the positional arguments; None
    for those that a program was exported with.
    fold: without, every BatchNormalization stays a node. level, only, skip, plan: as `bnfold.fold` takes them;
    plan_file: the same from a file that `bnfold fold --save-plan` wrote for a .pt2 or .onnx result.
    opset: of the ONNX operators (default: the exporter's). dynamic: names of axes whose length may change, for every
    input that has the axis (default {0: "batch"}; {} for none). input_names, output_names: in order. merge: let
    parallel linear branches become one convolution, after the fold. simplify: run onnxsim on the result. half: convert
    it to float16, and hold it to the model in float16. verify: run the file against the model before it takes its
    name, on `providers`.
    properties: more metadata for the file.
    Raises BnfoldError where the model can't be captured or written, DifferentError or UnverifiedError where the file
    is not shown to be the same function; an old file at `path` then stays.
    """
    if example_inputs is None and isinstance(model, ExportedProgram) and model.example_inputs is not None:
        example_inputs, kwargs = model.example_inputs
    given = fresh(arguments(example_inputs, kwargs))  # one tensor that is given twice stands for two inputs
    program, notes = captured(model, given, dynamic)
    if plan_file is not None:
        plan = read_plan(plan_file, fold_program(program, plan=Plan((), ()), verify=False).graph)
    result = (
        fold_program(program, level=level, only=only, skip=skip, plan=plan, merge=merge, verify=False) if fold else None
    )
    _refuse_other_numbers(program, input_names, output_names)
    output_names = output_names or _output_names(program)
    proto = _to_onnx(program if result is None else result.model, opset, input_names, output_names)
    with_names(proto, _symbols(program, BATCH if dynamic is None else dynamic))
    if result is None:
        _require_batch_norms(program, proto)
    elif merge:
        proto, more = _merged(proto, level)
        notes += more
    with_properties(proto, {**_provenance(result), **(properties or {})})
    if simplify:
        proto = simplified(proto)
    if half:
        model, given = half_model(model, given)
        proto = with_properties(half_proto(proto), {item.key: item.value for item in proto.metadata_props})
    check = write(proto, Path(path), verifier(model, given, providers, Path(path).name) if verify else None)
    return ExportResult(Path(path), result and replace(result, notes=notes), check, notes)


def _merged(proto: onnx.ModelProto, level: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Merge parallel branches that only the file shows, and arithmetic that is one affine; notes tell of the former."""
    if not _fits(proto):
        return proto, ()
    proto, merges = merged_proto(proto, level)
    return proto, tuple(f"{edit.node}: one convolution in the place of branches" for edit in merges.edits)


def captured(
    model: "nn.Module | ExportedProgram", given: Arguments, dynamic: Mapping[int, str] | None
) -> tuple[ExportedProgram, tuple[str, ...]]:
    """Export with the dynamic axes; notes say at which sizes the forward was seen to take the same path."""
    _require_axes(given, dynamic or {})
    if isinstance(model, ExportedProgram):
        fixed = [name for axis, name in (dynamic or {}).items() if not _is_dynamic(model, axis)]
        if fixed:
            way_out = "export it anew with dynamic_shapes"
            raise BnfoldError(f"--dynamic {', '.join(fixed)}: the exported program has these lengths fixed; {way_out}")
        return functionalised(model), ()
    require_ready(model)
    axes = BATCH if dynamic is None else dynamic
    if 0 in axes and given.batch == 1:  # torch.export takes a length of 1 as one that never changes
        given = given.resized(None, 2)
    notes = same_at_other_sizes(model, given, partial(read_at, model)).notes
    try:
        program = _exported(model, given, axes)
    except CaptureError:
        if dynamic is not None:
            raise
        program = _exported(model, given, {})
    fixed = [name for axis, name in axes.items() if not _is_dynamic(program, axis)]
    if fixed and dynamic is not None:
        raise BnfoldError(f"--dynamic {', '.join(fixed)}: the forward needs these lengths as they are")
    notes += tuple(f"the length of {name} is fixed: the forward needs it as it is" for name in fixed)
    return functionalised(program), notes


def _require_axes(given: Arguments, dynamic: Mapping[int, str]) -> None:
    rank = max((item.ndim for item in given.tensors), default=0)
    for axis, name in dynamic.items():
        if axis >= rank:
            raise BnfoldError(f"--dynamic {axis}={name}: no input has an axis {axis}; the last one is {rank - 1}")


def _exported(module: nn.Module, given: Arguments, axes: Mapping[int, str]) -> ExportedProgram:
    def spec(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return None
        return {axis: Dim.AUTO for axis in axes if axis < item.ndim}

    shapes: Any = None
    if axes:
        shapes = (*pytree.tree_map(spec, given.args), *pytree.tree_map(spec, dict(given.kwargs)).values())
    return exported(module, given, shapes)


def _inputs(program: ExportedProgram) -> list[Tensor]:
    names = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return [node.meta["val"] for node in nodes if isinstance(node.meta.get("val"), Tensor)]


def _output_names(program: ExportedProgram) -> list[str] | None:
    """Name the outputs as the program does before it is folded; None where it names too few of them."""
    names = [name for name in program.graph_signature.user_outputs if isinstance(name, str)]
    taken = set(program.graph_signature.user_inputs) | set(program.graph_signature.buffers)
    whole = len(names) == len(program.graph_signature.user_outputs) and len(names) == len(set(names))
    return names if whole and taken.isdisjoint(names) else None


def _is_dynamic(program: ExportedProgram, axis: int) -> bool:
    return any(axis < item.ndim and isinstance(item.shape[axis], torch.SymInt) for item in _inputs(program))


def _symbols(program: ExportedProgram, axes: Mapping[int, str]) -> dict[str, str]:
    """Give the user's name for each symbol of the inputs; the first axis that has it decides."""
    found: dict[str, str] = {}
    for item in _inputs(program):
        for axis, name in axes.items():
            size: Any = item.shape[axis] if axis < item.ndim else None
            if isinstance(size, torch.SymInt):
                found.setdefault(str(size.node.expr), name)
    return found


def _to_onnx(
    program: ExportedProgram, opset: int | None, input_names: Sequence[str] | None, output_names: Sequence[str] | None
) -> onnx.ModelProto:
    try:
        with quietly():
            exported = torch.onnx.export(
                _in_operators_of_onnx(program),
                (),
                None,
                dynamo=True,
                optimize=False,  # the exporter's optimiser folds BatchNorm by itself
                verbose=False,
                opset_version=opset,
                input_names=input_names,
                output_names=output_names,
            )
            proto = cleaned(exported)
        if _fits(proto):
            onnx.checker.check_model(proto)
    except Exception as error:
        cause = _root(error)
        line = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
        raise BnfoldError(f"torch.onnx.export failed ({type(cause).__name__}: {line[:300]})") from error
    return proto if opset is None else in_opset(proto, opset)


def _refuse_other_numbers(
    program: ExportedProgram, input_names: Sequence[str] | None, output_names: Sequence[str] | None
) -> None:
    """Refuse more or fewer names than the model has ends: the exporter takes those that it can."""
    signature = program.graph_signature
    for what, names, ends in (
        ("input", input_names, signature.user_inputs),
        ("output", output_names, signature.user_outputs),
    ):
        if names is not None and len(names) != len(ends):
            raise BnfoldError(f"{what} names: got {len(names)} ({', '.join(names)}); the model has {len(ends)}")


def _in_operators_of_onnx(program: ExportedProgram) -> ExportedProgram:
    """Write as others the operators that the exporter lacks, where that is the same function."""
    return program.run_decompositions(_TRANSLATED) if _TRANSLATED.keys() & _targets(program) else program


def _targets(program: ExportedProgram) -> set[Any]:
    return {node.target for node in program.graph.nodes if node.op == "call_function"}


def _global_max(x: Tensor, output_size: Sequence[int]) -> Any:
    """An adaptive max pooling to one number a channel: the values, and where they are."""
    if any(size != 1 for size in output_size):
        return NotImplemented
    axes = list(range(-len(output_size), 0))
    values = x.amax(axes, keepdim=True)
    return values, x.flatten(axes[0]).argmax(-1).reshape(values.shape)


_TRANSLATED: Mapping[Any, Any] = {
    torch.ops.aten.adaptive_max_pool1d.default: _global_max,
    torch.ops.aten.adaptive_max_pool2d.default: _global_max,
    torch.ops.aten.adaptive_max_pool3d.default: _global_max,
}


def _fits(proto: onnx.ModelProto) -> bool:
    """Whether protobuf can serialise the model: to 2 GiB."""
    return bool(proto.ByteSize() <= onnx.checker.MAXIMUM_PROTOBUF)


def _root(error: BaseException) -> BaseException:
    """Give the error that started it: the exporter wraps the operator that it lacks in general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _provenance(result: FoldResult | None) -> dict[str, str]:
    folded = {} if result is None else {"bnfold.plan_sha256": digest(result.plan)}
    return {"bnfold.version": __version__, **folded}


def _living(program: ExportedProgram) -> set[fx.Node]:
    """The nodes that an output depends on; the exporter leaves out the others."""
    found: set[fx.Node] = set()
    pending = [node for node in program.graph.nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def _require_batch_norms(program: ExportedProgram, proto: onnx.ModelProto) -> None:
    wanted = sum("batch_norm" in str(node.target) for node in _living(program))
    got = sum(node.op_type == "BatchNormalization" for node in proto.graph.node)
    if got < wanted:
        raise BnfoldError(f"the exporter left {got} of {wanted} BatchNormalization nodes; give another --opset")
