"""nn.Module to Graph and back: read, fold, write, and prove that the function is the same."""

import contextlib
import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bnfold import ops
from bnfold.adapters import torch_truth
from bnfold.adapters.torch_capture import Arguments, CaptureError, arguments, capture, quietly, uncompiled
from bnfold.adapters.torch_captured import of_program
from bnfold.adapters.torch_copy import bake as baked
from bnfold.adapters.torch_copy import copied, taken_back, without_shared
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_job import Job, OtherPathError, prepared
from bnfold.adapters.torch_limits import limited
from bnfold.adapters.torch_names import Paths, stack_of
from bnfold.adapters.torch_reading import AliasedError, Reading, read_captured
from bnfold.adapters.torch_replanning import planned_anew
from bnfold.adapters.torch_runs import MORE, enough, run, standard
from bnfold.adapters.torch_sizes import followed, shapes, varying
from bnfold.adapters.torch_submodules import called_with, fold_submodules, plan_of_part
from bnfold.adapters.torch_truth import fresh
from bnfold.adapters.torch_undo import Undo
from bnfold.adapters.torch_walk import confirmed, read_walk, walked
from bnfold.adapters.torch_write import Written
from bnfold.candidates import is_selected
from bnfold.errors import BnfoldError
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Plan, ScaleWeight
from bnfold.result import FoldResult


@uncompiled()
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
    """Raise BnfoldError for a module in training mode, without numbers (lazy, on the meta device), or scripted."""
    from bnfold.adapters.torch_load import refuse_unfinished

    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            name = path or "a ScriptModule"
            raise BnfoldError(f"{name} is TorchScript, which is deprecated; give the module that it was made of")
    if module.training:
        raise BnfoldError(f"{type(module).__name__} is in training mode; call .eval() first")
    refuse_unfinished(module, type(module).__name__)


def read_at(module: nn.Module, given: Arguments) -> Reading:
    """Capture and read the module with these inputs. Raises CaptureError."""
    return read_exported(capture(module, given), module)


def read_exported(program: ExportedProgram, module: nn.Module | None = None) -> Reading:
    """Read a program; one that writes into views is functionalised first."""
    try:
        return read_captured(of_program(program), module)
    except AliasedError:
        with quietly():
            functional = program.run_decompositions({})
        return read_captured(of_program(functional), module)


class Options(TypedDict, total=False):
    """What a fold of a module takes beside its inputs.

    level, only, skip: as `bnfold.folding.fold` takes them. inplace: change `module` itself. bake: make plain weights of
    weight_norm, spectral_norm and prune first. plan: a fold to carry out, in place of finding one. dry_run: only plan.
    """

    level: str
    only: Sequence[str]
    skip: Sequence[str]
    inplace: bool
    bake: bool
    plan: Plan | None
    dry_run: bool


def fold_module(
    module: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None, **options: Unpack[Options]
) -> FoldResult:
    """Fold every BatchNorm of a module that can be folded, and give a module of the same class.

    example_inputs: one tensor or the positional arguments; kwargs: the keyword ones.
    The module is in eval mode; its argument stays as it is, and nothing changes where anything fails.
    Raises BnfoldError where the module can't be read, DifferentError where the result isn't the same function.
    """
    return fold_with_edits(module, example_inputs, kwargs, **options)[0]


@uncompiled()
def fold_with_edits(
    module: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None, **options: Unpack[Options]
) -> tuple[FoldResult, ModuleEdits]:
    """Do what `fold_module` does, and give the edits that a file has to store beside the weights."""
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise TypeError(f"fold() of a module has no option {unknown[0]!r}; it has {', '.join(Options.__annotations__)}")
    require_ready(module)
    given = fresh(arguments(example_inputs, kwargs))  # one tensor that is given twice stands for two inputs
    settings = {name: value for name, value in options.items() if name in ("level", "only", "skip")}
    inplace, dry_run = options.get("inplace", False), options.get("dry_run", False)
    wanted = _Wanted(module, settings, inplace, options.get("plan"), dry_run)
    if not options.get("bake"):
        return _folded(module, given, wanted)
    target = module if inplace else copied(module)
    with taken_back(target, always=dry_run) if inplace else contextlib.nullcontext():
        notes = tuple(f"{path}: its parametrization was made a plain weight" for path in baked(target))
        result, edits = _folded(target, given, wanted)
    return replace(result, notes=(*notes, *result.notes)), edits


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A request. original: what the caller gave, before anything was baked. path: of a part of it, with a dot."""

    original: nn.Module
    settings: Mapping[str, Any]
    inplace: bool = False
    plan: Plan | None = None
    dry_run: bool = False
    undo: Undo = field(default_factory=Undo)
    path: str = ""

    def find(self, graph: Graph) -> Plan:
        """Plan a fold of what the patterns leave; they mean names in the whole module."""
        if not self.path:
            return fold(graph, **self.settings)
        only, skip = self.settings.get("only", ()), self.settings.get("skip", ())
        left_out = [node.name for node in graph.nodes if not is_selected(f"{self.path}{node.name}", only, skip)]
        return fold(graph, **{**self.settings, "only": (), "skip": [glob.escape(name) for name in left_out]})

    def target(self, module: nn.Module, scaled: Iterable[Tensor]) -> nn.Module:
        """Give what may be written to. scaled: the parameters that will be given other memory."""
        return module if self.inplace or module is not self.original else copied(module, scaled)


def _folded(module: nn.Module, given: Arguments, wanted: _Wanted) -> tuple[FoldResult, ModuleEdits]:
    try:
        result, done = _fold_whole(module, given, wanted)
    except CaptureError as error:
        return _fold_parts(module, given, wanted, error)
    return result, done.edits


def _fold_whole(module: nn.Module, given: Arguments, wanted: _Wanted) -> tuple[FoldResult, Written]:
    found = confirmed(module, given)
    reading = read_walk(found, module, given) or read_at(module, given)
    path = followed(module, given, partial(read_at, module), found, reading)
    notes = (*path.notes, *_unseen(reading, module))
    writable, graph = prepared(reading, limited(reading, module, varying(path.sizes)))
    plan = wanted.find(graph) if wanted.plan is None else wanted.plan
    if wanted.dry_run:
        return FoldResult(wanted.original, plan, graph, notes), Written(ModuleEdits())
    target = wanted.target(module, _scaled(plan, graph, reading))
    if not plan.edits:
        return FoldResult(target, plan, graph, notes), Written(ModuleEdits())
    job = Job(module, given, path, reading, writable, graph, read_at)
    while True:
        try:
            done = job.carry_out(plan, target, wanted.undo)
            break
        except OtherPathError:
            _require_own_path(target, module, given)
            again = None if wanted.plan is not None else planned_anew(job, plan, target, wanted.find)
            if again is None:
                raise
            job, plan, more = again
            notes += more
    if target is not module:
        without_shared(target, module)
    return FoldResult(target, plan, job.graph, notes), done


def _require_own_path(copy: nn.Module, module: nn.Module, given: Arguments) -> None:
    """Raise BnfoldError for a copy that runs on the original's weights: a function in it was bound to the original."""
    if copy is not module and walked(copy, given).steps != walked(module, given).steps:
        raise BnfoldError(
            f"a copy of {type(module).__name__} doesn't take its path, as where a function in it holds on to the "
            "original; pass inplace=True"
        )


def _unseen(reading: Reading, module: nn.Module) -> tuple[str, ...]:
    """Name the BatchNorms that the graph doesn't show: they have no outcome."""
    paths = Paths(module)
    shown = {paths.module(path) for source in reading.sources.values() for path in stack_of(source)}
    known = [node for node in reading.graph.nodes if not isinstance(node.op, ops.Unknown)]
    read = {name for node in known for name in node.inputs}
    norms = [path for path, part in module.named_modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    missing = [path for path in norms if path not in shown and f"{path}.running_var" not in read]
    if not missing:
        return ()
    names = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    return (f"not in the graph: {names}; the forward doesn't call it, or in a block that is kept whole (autocast)",)


def _scaled(plan: Plan, graph: Graph, reading: Reading) -> list[Tensor]:
    """Give the weights that the plan scales."""
    nodes = [graph.by_name.get(edit.node) for edit in plan.edits if isinstance(edit, ScaleWeight)]
    names = {name for node in nodes if node is not None for name in node.inputs[:2]}
    return [tensor for name, tensor in reading.tensors.items() if name in names]


def _fold_parts(
    module: nn.Module, given: Arguments, wanted: _Wanted, error: CaptureError
) -> tuple[FoldResult, ModuleEdits]:
    """Fold the submodules that can be captured, and hold the whole to the original for these inputs."""

    def fold_part(part: nn.Module, inputs: Arguments, path: str) -> tuple[FoldResult, ModuleEdits]:
        plan = None if wanted.plan is None else plan_of_part(wanted.plan, path)
        own = replace(wanted, original=part, inplace=True, plan=plan, dry_run=False, path=f"{path}.")
        result, done = _fold_whole(part, inputs, own)
        return result, done.edits

    target = copied(module) if wanted.dry_run else wanted.target(module, ())
    calls = called_with(target, given)
    runs = enough(module, [run(module, given)], MORE)
    try:
        plan, graph, (edits, notes) = fold_submodules(target, calls, fold_part, error)
        _require_all(wanted.plan, plan)
        where = f"{type(module).__name__} with inputs {shapes(given)}"
        own, unit = standard(runs), torch_truth.rounding(module)
        for one in runs:
            folded = torch_truth.outputs(target, one.given)
            torch_truth.require_same(one.truth, one.reference, folded, where, unit, own)
    except BaseException:
        wanted.undo.take_back()
        raise
    return FoldResult(wanted.original if wanted.dry_run else target, plan, graph, notes), edits


def _require_all(wanted: Plan | None, done: Plan) -> None:
    carried_out = {edit.node for edit in done.edits}
    left = [edit.node for edit in (wanted.edits if wanted else ()) if edit.node not in carried_out]
    if left:
        raise BnfoldError(f"the plan names {left[0]}, which no part of this module has; make the plan anew")
