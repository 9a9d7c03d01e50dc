"""nn.Module to Graph and back: read, fold, write, and prove that the function is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from bnfold.adapters import torch_truth
from bnfold.adapters.torch_capture import (
    Arguments,
    arguments,
    capture,
)
from bnfold.adapters.torch_copy import bake as baked
from bnfold.adapters.torch_copy import copied
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_form import difference, form
from bnfold.adapters.torch_limits import Writable, in_place_after, limited
from bnfold.adapters.torch_names import Paths, path_of
from bnfold.adapters.torch_reading import AliasedError, Reading, read_program
from bnfold.adapters.torch_replacing import Replacement
from bnfold.adapters.torch_sizes import same_at_other_sizes, shapes
from bnfold.adapters.torch_trace import Step, is_as_planned
from bnfold.adapters.torch_write import Written, write
from bnfold.errors import BnfoldError, DifferentError
from bnfold.folding import fold
from bnfold.graph import Graph, Node
from bnfold.plan import Plan, Remove, ReplaceByClip
from bnfold.raising import raised
from bnfold.result import FoldResult
from bnfold.why import Why


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
    reading = read_at(module, given)
    sizes, more = same_at_other_sizes(module, given, partial(read_at, module), reading)
    writable, graph = _raised(reading, limited(reading, module))
    if plan is None:
        plan = fold(graph, level=level, only=only, skip=skip)
    result = FoldResult(original, plan, graph, (*notes, *more))
    if dry_run or not plan.edits:
        return replace(result, model=original if inplace or dry_run else copied(module)), ModuleEdits()
    job = _Job(module, given, sizes, reading, writable, graph)
    target = module if inplace or module is not original else copied(module)
    done = job.carry_out(plan, target)
    return replace(result, model=target), done.edits


def _raised(reading: Reading, writable: Writable) -> tuple[Writable, Graph]:
    """Raise the arithmetic; a submodule of which that doesn't make one affine can't be removed after all."""
    graph = raised(writable.graph)
    affine = {name for node in graph.nodes for name in node.sources or (node.name,) if "remove" in _parts(node)}
    numbers = {name for name in writable.replacements if not _is_plain(reading.graph.by_name[name])}
    broken = {writable.replacements[name].path for name in numbers - affine}
    if not broken:
        return writable, graph
    kept = {name: item for name, item in writable.replacements.items() if item.path not in broken}
    gone = writable.replacements.keys() - kept.keys()
    nodes = tuple(_without_removal(node) if node.name in gone else node for node in writable.graph.nodes)
    limited_graph = replace(writable.graph, nodes=nodes)
    return Writable(limited_graph, kept), raised(limited_graph)


def _parts(node: Node) -> tuple[str, ...]:
    return ("remove",) if type(node.op).__name__ in ("Affine", "BatchNorm") else ()


def _is_plain(node: Node) -> bool:
    return type(node.op).__name__ == "Identity"


def _without_removal(node: Node) -> Node:
    return replace(node, limits={"remove": Why.CODE, "constants": Why.CODE, **node.limits}, unit="")


_SMALL = 1_000_000  # parameters: below, a forward is quick


@dataclass(frozen=True, eq=False)
class _Job:
    """A module with all that is known of it before the write."""

    module: nn.Module
    given: Arguments
    sizes: Sequence[Arguments]
    reading: Reading
    writable: Writable
    graph: Graph

    def carry_out(self, plan: Plan, target: nn.Module) -> Written:
        """Write the plan into `target` and prove it; `target` is as it was where that fails."""
        steps, reference = torch_truth.recorded_outputs(self.module, self.given)
        before = [(self.given, torch_truth.outputs(self.module, self.given, wide=True), reference)]
        for size in self._other_sizes():
            truth = torch_truth.outputs(self.module, size, wide=True)
            before.append((size, truth, torch_truth.outputs(self.module, size)))
        in_place = in_place_after(self.reading, self.module, self._removed(plan))
        done = write(target, self.graph, plan, self.replacements, self.owners, in_place)
        try:
            after, folded = self._run_folded(target)
            if not is_as_planned(steps, after, self._replaced(plan), set(done.biased.values())):
                self._require_graph(plan, target, done)
            for size, truth, reference in before:
                got = folded if size is self.given else torch_truth.outputs(target, size)
                where = f"{type(target).__name__} with inputs {shapes(size)}"
                torch_truth.require_same(truth, reference, got, where)
        except BaseException:
            done.take_back()
            raise
        return done

    def _run_folded(self, target: nn.Module) -> tuple[tuple[Step, ...], list[Tensor]]:
        try:
            return torch_truth.recorded_outputs(target, self.given)
        except Exception as error:
            raise DifferentError(
                f"{type(target).__name__}: the folded module takes another path: it fails with "
                f"{type(error).__name__}: {error}"
            ) from error

    def _other_sizes(self) -> Sequence[Arguments]:
        """Give the sizes to run at besides the given one: another batch, and all of them where that costs little."""
        elements = sum(parameter.numel() for parameter in self.module.parameters())
        return self.sizes[1:] if elements < _SMALL else self.sizes[1:2]

    def _replaced(self, plan: Plan) -> set[str]:
        return {self.replacements[name].path for name in self._removed(plan) if name in self.replacements}

    @property
    def replacements(self) -> Mapping[str, Replacement]:
        return self.writable.replacements

    @property
    def owners(self) -> Mapping[str, str]:
        """By node of the raised graph, the path of the module that it stands for first."""
        paths = Paths(self.module)
        names = {node.name: (node.sources or (node.name,))[0] for node in self.graph.nodes}
        sources = self.reading.sources
        return {name: paths.module(path_of(sources[source])) for name, source in names.items() if source in sources}

    def _require_graph(self, plan: Plan, target: nn.Module, done: Written) -> None:
        """Capture the written module: it must be the graph that the plan wants, and no other path of the forward."""
        clipped = {edit.node: edit.axis for edit in plan.edits if isinstance(edit, ReplaceByClip)}
        wanted = form(self.reading.graph, self.reading.tensors, self._removed(plan), done.biased, clipped)
        again = read_at(target, self.given)
        parted = difference(wanted, form(again.graph, again.tensors))
        if parted:
            raise DifferentError(f"{type(target).__name__}: the folded module takes another path: {parted}")

    def _removed(self, plan: Plan) -> set[str]:
        """The nodes, as they were read, of the affines that go."""
        gone = [self.graph.by_name[edit.node] for edit in plan.edits if isinstance(edit, Remove)]
        return {name for node in gone for name in node.sources or (node.name,)}
