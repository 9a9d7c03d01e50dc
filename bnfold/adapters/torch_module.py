"""nn.Module to Graph and back: read, fold, write, and prove that the function is the same."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from bnfold.adapters import torch_truth
from bnfold.adapters.torch_capture import Arguments, CaptureError, arguments, capture, quietly
from bnfold.adapters.torch_copy import bake as baked
from bnfold.adapters.torch_copy import copied, without_shared
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_job import Job, OtherPathError, prepared, without_removal
from bnfold.adapters.torch_limits import limited
from bnfold.adapters.torch_reading import AliasedError, Reading, read_program
from bnfold.adapters.torch_sizes import same_at_other_sizes, shapes
from bnfold.adapters.torch_submodules import fold_submodules
from bnfold.adapters.torch_watched import looked_at
from bnfold.errors import BnfoldError
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Plan, ScaleWeight
from bnfold.result import FoldResult


def read(
    module: nn.Module,
    example_inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    strict_limits: bool = True,
) -> Graph:
    """Read a module in eval mode into a graph, with the shapes of the example inputs.

    example_inputs: one tensor or the positional arguments. strict_limits: tell what can't be written back into a
    module; without, the graph is what a .pt2 or .onnx result can change.
    Raises BnfoldError where the module is in training mode or torch.export can't follow it.
    """
    require_ready(module)
    reading = read_at(module, arguments(example_inputs, kwargs))
    return limited(reading, module).graph if strict_limits else reading.graph


def require_ready(module: nn.Module) -> None:
    """Raise BnfoldError for a module in training mode, or without numbers (lazy, on the meta device)."""
    from bnfold.adapters.torch_load import refuse_unfinished

    if module.training:
        raise BnfoldError(f"{type(module).__name__} is in training mode; call .eval() first")
    refuse_unfinished(module, type(module).__name__)


def read_at(module: nn.Module, given: Arguments) -> Reading:
    """Capture and read the module with these inputs. Raises CaptureError."""
    return read_exported(capture(module, given), module)


def read_exported(program: ExportedProgram, module: nn.Module | None = None) -> Reading:
    """Read a program; one that writes into views is functionalised first."""
    try:
        return read_program(program, module)
    except AliasedError:
        with quietly():
            functional = program.run_decompositions({})
        return read_program(functional, module)


def fold_module(
    module: nn.Module,
    example_inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    inplace: bool = False,
    bake: bool = False,
    plan: Plan | None = None,
    dry_run: bool = False,
) -> FoldResult:
    """Fold every BatchNorm of a module that can be folded, and give a module of the same class.

    example_inputs: one tensor or the positional arguments; kwargs: the keyword ones. level, only, skip: as
    `bnfold.folding.fold` takes them. inplace: change `module` itself, which saves the memory of a copy. bake: make
    plain weights of weight_norm, spectral_norm and prune first. plan: a fold to carry out, in place of finding one.
    dry_run: only plan.
    The module is in eval mode; its argument stays as it is, and nothing changes where anything fails.
    Raises BnfoldError where the module can't be read, DifferentError where the result isn't the same function.
    """
    return fold_with_edits(
        module,
        example_inputs,
        kwargs,
        level=level,
        only=only,
        skip=skip,
        inplace=inplace,
        bake=bake,
        plan=plan,
        dry_run=dry_run,
    )[0]


def fold_with_edits(
    module: nn.Module,
    example_inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    inplace: bool = False,
    bake: bool = False,
    plan: Plan | None = None,
    dry_run: bool = False,
) -> tuple[FoldResult, ModuleEdits]:
    """Do what `fold_module` does, and give the edits that a file has to store beside the weights."""
    require_ready(module)
    given = arguments(example_inputs, kwargs)
    wanted = _Wanted(module, {"level": level, "only": only, "skip": skip}, inplace, plan, dry_run)
    notes: tuple[str, ...] = ()
    if bake:
        module = module if inplace else copied(module)
        notes = tuple(f"{path}: its parametrization was made a plain weight" for path in baked(module))
    try:
        result, edits = _fold_whole(module, given, wanted)
    except CaptureError as error:
        if plan is not None or inplace:
            raise
        result, edits = _fold_parts(module, given, wanted, error)
    return replace(result, notes=(*notes, *result.notes)), edits


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A request. original: what the caller gave, before anything was baked."""

    original: nn.Module
    settings: Mapping[str, Any]
    inplace: bool = False
    plan: Plan | None = None
    dry_run: bool = False

    def target(self, module: nn.Module, scaled: Iterable[Tensor]) -> nn.Module:
        """Give what may be written to. scaled: the parameters that will be given other memory."""
        return module if self.inplace or module is not self.original else copied(module, scaled)


def _fold_whole(module: nn.Module, given: Arguments, wanted: _Wanted) -> tuple[FoldResult, ModuleEdits]:
    reading = read_at(module, given)
    followed = same_at_other_sizes(module, given, partial(read_at, module), reading)
    notes = followed.notes
    writable, graph = prepared(reading, limited(reading, module))
    plan = fold(graph, **wanted.settings) if wanted.plan is None else wanted.plan
    if wanted.dry_run:
        return FoldResult(wanted.original, plan, graph, notes), ModuleEdits()
    target = wanted.target(module, _scaled(plan, graph, reading))
    if not plan.edits:
        return FoldResult(target, plan, graph, notes), ModuleEdits()
    job = Job(module, given, followed, reading, writable, graph, read_at)
    try:
        done = job.carry_out(plan, target)
    except OtherPathError:
        watched = looked_at(target, given, job.replaced(plan))
        if wanted.plan is not None or not watched:
            raise
        job, plan = _keeping(job, watched, wanted.settings)
        done = job.carry_out(plan, target)
        notes += tuple(f"{path}: the forward looks at it beyond calling it, so it stays" for path in watched)
    if target is not module:
        without_shared(target, module)
    return FoldResult(target, plan, job.graph, notes), done.edits


def _scaled(plan: Plan, graph: Graph, reading: Reading) -> list[Tensor]:
    """Give the weights that the plan scales."""
    nodes = [graph.by_name.get(edit.node) for edit in plan.edits if isinstance(edit, ScaleWeight)]
    names = {name for node in nodes if node is not None for name in node.inputs[:2]}
    return [tensor for name, tensor in reading.tensors.items() if name in names]


def _fold_parts(
    module: nn.Module, given: Arguments, wanted: _Wanted, error: CaptureError
) -> tuple[FoldResult, ModuleEdits]:
    """Fold the submodules that can be captured, and hold the whole to the original for these inputs."""

    def fold_part(part: nn.Module, inputs: Arguments) -> tuple[FoldResult, ModuleEdits]:
        return _fold_whole(part, inputs, _Wanted(part, wanted.settings, inplace=True))

    target = copied(module)
    plan, graph, (edits, notes) = fold_submodules(target, given, fold_part, error)
    truth = torch_truth.truth(module, given)
    reference, folded = torch_truth.outputs(module, given), torch_truth.outputs(target, given)
    where = f"{type(module).__name__} with inputs {shapes(given)}"
    torch_truth.require_same(truth, reference, folded, where, torch_truth.rounding(module))
    return FoldResult(wanted.original if wanted.dry_run else target, plan, graph, notes), edits


def _keeping(job: Job, paths: Sequence[str], settings: Mapping[str, Any]) -> tuple[Job, Plan]:
    writable, graph = without_removal(job.writable, paths)
    return replace(job, writable=writable, graph=graph), fold(graph, **settings)
