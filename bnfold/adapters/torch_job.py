"""A module with all that is known of it, and the write of a plan into it with the proof that nothing changed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from bnfold import ops
from bnfold.adapters import torch_audit, torch_truth
from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_form import difference, form
from bnfold.adapters.torch_limits import Writable, in_place_after
from bnfold.adapters.torch_names import Paths, path_of
from bnfold.adapters.torch_reading import Reading
from bnfold.adapters.torch_replacing import Replacement
from bnfold.adapters.torch_runs import MORE, Run, enough, is_random, run, standard
from bnfold.adapters.torch_sizes import Followed, shapes
from bnfold.adapters.torch_steps import Steps, is_as_planned
from bnfold.adapters.torch_trace import trace
from bnfold.adapters.torch_undo import Undo
from bnfold.adapters.torch_walk import Walk, walked
from bnfold.adapters.torch_write import Written, write
from bnfold.errors import BnfoldError, DifferentError, UnverifiedError
from bnfold.graph import Graph, Node
from bnfold.plan import Plan, Remove, ReplaceByClip, SetBias
from bnfold.raising import raised
from bnfold.why import Why


class OtherPathError(DifferentError):
    """The folded module's forward does something else than the plan wants."""


def prepared(reading: Reading, writable: Writable) -> tuple[Writable, Graph]:
    """Raise the arithmetic; a submodule of which that doesn't make one affine can't be removed after all."""
    graph = raised(writable.graph)
    affine = {
        name
        for node in graph.nodes
        if isinstance(node.op, (ops.Affine, ops.BatchNorm))
        for name in node.sources or (node.name,)
    }
    numbers = {name for name in writable.replacements if not isinstance(reading.graph.by_name[name].op, ops.Identity)}
    broken = {writable.replacements[name].path for name in numbers - affine}
    return without_removal(writable, broken) if broken else (writable, graph)


def without_removal(writable: Writable, paths: Collection[str]) -> tuple[Writable, Graph]:
    """Keep the submodules at `paths`; gives the graph raised as well."""
    kept = {name: item for name, item in writable.replacements.items() if item.path not in paths}
    gone = writable.replacements.keys() - kept.keys()
    nodes = tuple(_held(node) if node.name in gone else node for node in writable.graph.nodes)
    graph = replace(writable.graph, nodes=nodes)
    return Writable(graph, kept, writable.relied), raised(graph)


def _held(node: Node) -> Node:
    return replace(node, limits={"remove": Why.CODE, "constants": Why.CODE, **node.limits}, unit="")


_SMALL = 1_000_000  # parameters: below, a forward is quick
_MORE_OF_LARGE = 4  # runs, at most, for the sake of outputs of few numbers


@dataclass(frozen=True, eq=False)
class Job:
    """A module with all that is known of it before the write."""

    module: nn.Module
    given: Arguments
    followed: Followed
    reading: Reading
    writable: Writable
    graph: Graph
    read_at: Callable[[nn.Module, Arguments], Reading]

    def carry_out(self, plan: Plan, target: nn.Module, undo: Undo) -> Written:
        """Write the plan into `target` and prove it; `target` is as it was where that fails.

        undo: gets the way back, for failures later on.
        """
        unknown = next((edit.node for edit in plan.edits if edit.node not in self.graph.by_name), None)
        if unknown is not None:
            raise BnfoldError(f"the plan names {unknown}, which this module hasn't; make the plan anew")
        own = self.followed.walk or walked(self.module, self.given)
        before = self._runs(own.outputs)
        in_place = self.in_place(plan)
        original = self.graph
        if target is self.module:
            original = torch_audit.kept(self.graph, plan, self.reading.tensors, undo.weights)
        mark = undo.mark()
        try:
            done = write(target, original, plan, self.replacements, self.owners, in_place, undo)
            torch_audit.require_audited(original, plan, torch_audit.written_in(original, target, done.biased))
            after = self._run_folded(target)
            self._require_path(plan, target, done, self.given, own.steps, after.steps)
            for size, steps in self._sizes_to_follow(own, after):
                again = trace(target, size, exporting=own.tape is not None)
                self._require_path(plan, target, done, size, steps, again)
            errors, unit = standard(before), torch_truth.rounding(self.module)
            for one in before:
                got = after.outputs if one.given is self.given else torch_truth.outputs(target, one.given)
                where = f"{type(target).__name__} with inputs {shapes(one.given)}"
                self._require_same(one, got, where, unit, errors)
        except BaseException:
            undo.take_back(mark)
            raise
        return done

    def _require_same(
        self, one: Run, got: Sequence[Tensor], where: str, unit: float, own: Sequence[torch_truth.Own]
    ) -> None:
        try:
            torch_truth.require_same(one.truth, one.reference, got, where, unit, own)
        except (DifferentError, UnverifiedError) as error:
            if is_random(self.module, one.given):
                raise UnverifiedError(
                    f"{type(self.module).__name__}: gives other numbers in every run (a dropout that is always on?), "
                    "so that no fold of it can be shown to be right"
                ) from error
            raise

    def _runs(self, reference: Sequence[Tensor]) -> list[Run]:
        """Run at the given size, which gave `reference`, and at others that the module takes."""
        runs = [run(self.module, self.given, reference)]
        for size in self._other_sizes():
            try:
                runs.append(run(self.module, size))
            except Exception:  # noqa: BLE001, S112 - on numbers it asks for more than on tensors without numbers
                continue
        return enough(self.module, runs, MORE if self._is_small() else _MORE_OF_LARGE)

    def _is_small(self) -> bool:
        return sum(parameter.numel() for parameter in self.module.parameters()) < _SMALL

    def _sizes_to_follow(self, own: Walk, after: Walk) -> Sequence[tuple[Arguments, Steps]]:
        """Give the sizes to trace the written module at.

        Where nobody asks for a length, the path is the same at any size, and the farthest one confirms it.
        """
        return self.followed.traces[-1:] if own.blind and after.blind else self.followed.traces

    def _run_folded(self, target: nn.Module) -> Walk:
        try:
            return walked(target, self.given)
        except Exception as error:
            raise OtherPathError(
                f"{type(target).__name__}: the folded module takes another path: it fails with "
                f"{type(error).__name__}: {error}"
            ) from error

    def _other_sizes(self) -> Sequence[Arguments]:
        """Give the sizes to run at besides the given one: of a large module, only those that could not be traced."""
        sizes = self.followed.sizes[1:]
        if self._is_small():
            return sizes
        traced = [size for size, _ in self.followed.traces]
        return [size for size in sizes if size not in traced][:1]

    def replaced(self, plan: Plan) -> set[str]:
        """Give the paths of the submodules that the plan takes out."""
        return {self.replacements[name].path for name in self._removed(plan) if name in self.replacements}

    def biased(self, plan: Plan) -> dict[str, int]:
        """Give the paths of the layers without a bias that the plan gives one, and its length."""
        edits = [edit for edit in plan.edits if isinstance(edit, SetBias)]
        new = [edit for edit in edits if not any(self.graph.by_name[edit.node].inputs[2:3])]
        return {self.owners[edit.node]: edit.bias.size for edit in new}

    def in_place(self, plan: Plan) -> tuple[str, ...]:
        """Give the paths of the activations that have to stop working in place once the plan is carried out."""
        found = in_place_after(self.reading, self.module, self._removed(plan))
        return tuple(path for path in found if path not in self.writable.relied)

    @property
    def replacements(self) -> Mapping[str, Replacement]:
        """By node, the submodule that it is all of."""
        return self.writable.replacements

    @property
    def owners(self) -> Mapping[str, str]:
        """By node of the raised graph, the path of the module that it stands for first."""
        paths = Paths(self.module)
        names = {node.name: (node.sources or (node.name,))[0] for node in self.graph.nodes}
        sources = self.reading.sources
        return {name: paths.module(path_of(sources[source])) for name, source in names.items() if source in sources}

    def _require_path(
        self, plan: Plan, target: nn.Module, done: Written, size: Arguments, before: Steps, after: Steps | None
    ) -> None:
        """Demand the path that the plan wants of the written module, by its steps or by a capture."""
        if after is None or not is_as_planned(before, after, self.replaced(plan), set(done.biased.values())):
            self._require_graph(plan, target, done, size)

    def _require_graph(self, plan: Plan, target: nn.Module, done: Written, size: Arguments) -> None:
        """Capture the written module: it must be the graph that the plan wants, and no other path of the forward."""
        clipped = {edit.node: edit.axis for edit in plan.edits if isinstance(edit, ReplaceByClip)}
        wanted = form(self.reading.graph, self.reading.tensors, self._removed(plan), done.biased, clipped)
        again = self.read_at(target, size)
        parted = difference(wanted, form(again.graph, again.tensors))
        if parted:
            raise OtherPathError(f"{type(target).__name__}: the folded module takes another path: {parted}")

    def _removed(self, plan: Plan) -> set[str]:
        """The nodes, as they were read, of the affines that go."""
        gone = [self.graph.by_name[edit.node] for edit in plan.edits if isinstance(edit, Remove)]
        return {name for node in gone for name in node.sources or (node.name,)}
