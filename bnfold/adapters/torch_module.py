"""nn.Module to Graph and back: read, fold, write, and prove that the function is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from bnfold.adapters.torch_capture import Arguments, arguments, capture
from bnfold.adapters.torch_copy import bake as baked
from bnfold.adapters.torch_copy import copied
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_job import Job, OtherPathError, prepared, without_removal
from bnfold.adapters.torch_limits import limited
from bnfold.adapters.torch_reading import AliasedError, Reading, read_program
from bnfold.adapters.torch_sizes import same_at_other_sizes
from bnfold.adapters.torch_watched import looked_at
from bnfold.errors import BnfoldError
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Plan
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
        return read_program(program.run_decompositions({}), module)


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
    original = module
    notes: list[str] = []
    if bake:
        module = module if inplace else copied(module)
        notes += [f"{path}: its parametrization was made a plain weight" for path in baked(module)]
    settings: dict[str, Any] = {"level": level, "only": only, "skip": skip}
    reading = read_at(module, given)
    sizes, more = same_at_other_sizes(module, given, partial(read_at, module), reading)
    writable, graph = prepared(reading, limited(reading, module))
    found = fold(graph, **settings) if plan is None else plan
    result = FoldResult(original, found, graph, (*notes, *more))
    if dry_run or not found.edits:
        return replace(result, model=original if inplace or dry_run else copied(module)), ModuleEdits()
    job = Job(module, given, sizes, reading, writable, graph, read_at)
    target = module if inplace or module is not original else copied(module)
    try:
        done = job.carry_out(found, target)
    except OtherPathError:
        watched = looked_at(target, given, job.replaced(found))
        if plan is not None or not watched:
            raise
        job, found = _keeping(job, watched, settings)
        done = job.carry_out(found, target)
        more += tuple(f"{path}: the forward looks at it beyond calling it, so it stays" for path in watched)
    return FoldResult(target, found, job.graph, (*notes, *more)), done.edits


def _keeping(job: Job, paths: Sequence[str], settings: dict[str, Any]) -> tuple[Job, Plan]:
    writable, graph = without_removal(job.writable, paths)
    return replace(job, writable=writable, graph=graph), fold(graph, **settings)
