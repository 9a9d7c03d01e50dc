"""Folding ONNX files, without PyTorch."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bnfold import ops
from bnfold.adapters.biases import fold_sparingly, without_biases
from bnfold.adapters.onnx_audit import Audit
from bnfold.adapters.onnx_changes import Changes, changes
from bnfold.adapters.onnx_clips import with_clips
from bnfold.adapters.onnx_dead import note
from bnfold.adapters.onnx_edit import edited
from bnfold.adapters.onnx_external import Folder
from bnfold.adapters.onnx_model import Model
from bnfold.adapters.onnx_protos import ModelProto
from bnfold.adapters.onnx_reading import Reading, reading
from bnfold.adapters.onnx_skeleton import Skeleton, skeleton
from bnfold.adapters.onnx_validity import blaming
from bnfold.adapters.onnx_wire import File, Memory
from bnfold.adapters.onnx_write import EXTERNAL_DATA, to_file, to_memory
from bnfold.errors import BnfoldError
from bnfold.graph import Graph
from bnfold.merging import merges_after
from bnfold.plan import Plan
from bnfold.raising import raised
from bnfold.result import FoldResult


def read(source: str | os.PathLike[str] | ModelProto, *, freeze_inputs: bool = False) -> Graph:
    """Read a model as a Graph, arithmetic as it stands. Weights are read, from the file, when they are asked for.

    freeze_inputs: initializers that are inputs too are constants, though a caller could override them.
    Raises BnfoldError where it is no valid ONNX model, UnsafeError where its external data leads out of its folder.
    """
    file, folder = _of_proto(source) if isinstance(source, ModelProto) else _of_file(Path(source))
    with blaming(file):
        return reading(file, folder, freeze_inputs).model.graph


def fold_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    external_data: str = "auto",
    freeze_inputs: bool = False,
    dry_run: bool = False,
    plan: Plan | None = None,
    in_place: bool = False,
    merge: bool = True,
) -> FoldResult:
    """Fold an ONNX file into another one; the result's model is the target's path.

    target: SOURCE.folded.onnx where it isn't given. external_data: "auto" leaves tensors inside or outside the model's
    file as they were, "never" and "always" say where. plan: carry out this one instead of making one. dry_run: write
    nothing. in_place: the target may be the source. merge: parallel linear branches become one convolution, too.
    Raises BnfoldError where source is no valid model, target is source without in_place or a data file of it, a given
    plan lacks an edit that its frames imply, or a tensor would overflow; UnsafeError where external data leads out of
    the model's folder. The target is then as it was.
    """
    source = Path(source)
    target = _target(source, target, in_place)
    if external_data not in EXTERNAL_DATA:
        raise BnfoldError(f"external data {external_data!r} is unknown; it is one of {', '.join(EXTERNAL_DATA)}")
    file, folder = _of_file(source)
    make = partial(fold_sparingly, level=level, only=only, skip=skip, merge=merge)
    with blaming(file):
        found = reading(file, folder, freeze_inputs)
        graph, plan = _planned(found, plan, make)
        folder.keep_from(target)
        settled = _settled(found, graph, plan, level)
        if not dry_run:
            to_file(*settled, target, external_data)
    return FoldResult(target, plan, graph, _notes(*settled))


def fold_proto(
    proto: ModelProto,
    *,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    freeze_inputs: bool = False,
    plan: Plan | None = None,
    merge: bool = True,
    dry_run: bool = False,
) -> FoldResult:
    """Fold a ModelProto; the result's model is a new one, or the argument in a dry run.

    Its tensors must be in it, not in external data.
    """
    file, folder = _of_proto(proto)
    make = partial(fold_sparingly, level=level, only=only, skip=skip, merge=merge)
    with blaming(file):
        found = reading(file, folder, freeze_inputs)
        graph, plan = _planned(found, plan, make)
        settled = _settled(found, graph, plan, level)
        return FoldResult(proto if dry_run else to_memory(*settled), plan, graph, _notes(*settled))


def _planned(found: Reading, plan: Plan | None, make: Callable[[Graph], Plan]) -> tuple[Graph, Plan]:
    """Give the raised Graph, with the plan that was given or is made for it."""
    graph = raised_for_onnx(found.model.graph)
    if plan is None:
        return graph, make(graph)
    from bnfold.completeness import refuse_incomplete

    refuse_incomplete(graph, plan)  # the audit of what is written can't see what is missing
    return graph, plan


def merged_proto(proto: ModelProto, level: str = "default") -> tuple[ModelProto, Plan]:
    """Let parallel linear branches become one convolution each, and arithmetic that is one affine one operator.

    Gives the plan of the former, too.
    """
    found = reading(*_of_proto(proto), freeze_inputs=False)
    graph = raised_for_onnx(found.model.graph)
    plan = Plan((), merges_after(graph, Plan((), ())))
    if not plan.edits and not any(isinstance(node.op, ops.Affine) and node.sources[1:] for node in graph.nodes):
        return proto, plan
    return to_memory(*_settled(found, graph, plan, level)), plan


def raised_for_onnx(graph: Graph) -> Graph:
    """Raise arithmetic and clips, and say what can't be given a bias."""
    return without_biases(raised(with_clips(graph)))


def _settled(found: Reading, graph: Graph, plan: Plan, level: str) -> tuple[Model, Changes, Audit]:
    """Carry a plan out. level: at "max" the target may have no kernel for a BatchNorm, so none is put anywhere."""
    audit = Audit(graph, plan)
    audit.removed()
    audit.linear()
    audit.parameters()
    audit.recurrent()
    written = found.written(graph, plan)
    result = edited(written, graph, plan, norms=level != "max")
    audit.merges(result.merged)
    return written, changes(written, result, plan.frames), audit


def _notes(model: Model, changes: Changes, _: Audit) -> tuple[str, ...]:
    """Say which nodes no output depends on."""
    if not model.dead:
        return ()
    living = {id(scope) for scope in model.living}
    dead = [node for node in model.scopes.nodes if node in model.dead and id(node.scope) in living]
    return note([node.name for node in dead], [node.name for node in dead if changes.nodes.get(node) == []])


def _target(source: Path, target: str | os.PathLike[str] | None, in_place: bool) -> Path:
    if target is None:
        return source if in_place else source.with_suffix(".folded.onnx")
    found = Path(target)
    if not in_place and found.exists() and source.exists() and found.samefile(source):
        raise BnfoldError(f"{found}: is the source itself; use --in-place, or give another name")
    return found


def _of_file(path: Path) -> tuple[Skeleton, Folder]:
    """Open a file, which stays open as long as the Skeleton is referred to."""
    return skeleton(File(path)), Folder(path)


def _of_proto(proto: ModelProto) -> tuple[Skeleton, None]:
    try:
        data = proto.SerializeToString()
    except ValueError as error:  # protobuf's limit is 2 GiB
        raise BnfoldError(f"the ModelProto can't be serialised ({error}); give the path of its file") from error
    return skeleton(Memory(data, "ModelProto")), None
