"""Where torch.export can't follow a whole forward: the submodules that it can follow are folded, each on its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments, CaptureError
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_restoring import unchanged
from bnfold.adapters.torch_sizes import shapes
from bnfold.adapters.torch_truth import fresh
from bnfold.affine import Chain
from bnfold.errors import BnfoldError
from bnfold.graph import Constant, Graph, Node, Value
from bnfold.plan import Folded, Kept, Plan, Reason
from bnfold.result import FoldResult

Fold: TypeAlias = Callable[[nn.Module, Arguments, str], tuple[FoldResult, ModuleEdits]]
Calls: TypeAlias = Mapping[int, Arguments | None]


def fold_submodules(
    module: nn.Module, calls: Calls, fold: Fold, error: CaptureError
) -> tuple[Plan, Graph, tuple[ModuleEdits, tuple[str, ...]]]:
    """Fold in place what lies inside; gives the plan and the graph of all of them, and their edits with notes.

    calls: as `called_with` gives them. fold: folds one submodule in place, for its recorded inputs; it is told its
    path. error: why the whole can't be captured; it is raised where no submodule with BatchNorm can be captured either.
    """
    found = _Found()
    _descend(module, "", calls, fold, found)
    if not found.parts:
        raise error
    plan, graph = _joined(found.parts)
    notes = [f"{error}; {', '.join(path for path, *_ in found.parts)}: folded on its own"]
    notes += [f"{path}: not folded ({why})" for path, why in found.left.items()]
    return plan, graph, (found.edits, tuple(notes))


class _Found:
    """The submodules that were folded, those that were not and why, and the edits."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, Plan, Graph]] = []
        self.left: dict[str, str] = {}
        self.edits = ModuleEdits()


def _descend(module: nn.Module, prefix: str, calls: Calls, fold: Fold, found: _Found) -> None:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if not _holds_norms(child):
            continue
        if isinstance(child, nn.modules.batchnorm._NormBase):
            found.left[path] = "its neighbours can't be seen"
        elif id(child) not in calls:
            found.left[path] = "it wasn't called"
        elif _is_shared(module, child):
            found.left[path] = "its weights are used elsewhere too"
        else:
            _fold_child(child, path, calls, fold, found)


def _holds_norms(part: nn.Module) -> bool:
    return any(isinstance(item, nn.modules.batchnorm._NormBase) for item in part.modules())


def _fold_child(child: nn.Module, path: str, calls: Calls, fold: Fold, found: _Found) -> None:
    given = calls[id(child)]
    try:
        if given is None:
            raise CaptureError("its calls differ in more than tensors")
        result, edits = fold(child, given, path)
    except CaptureError as error:
        before = len(found.parts)
        _descend(child, f"{path}.", calls, fold, found)
        if len(found.parts) == before:
            found.left[path] = str(error)
        return
    except BnfoldError as error:
        found.left[path] = str(error)
        return
    found.parts.append((path, result.plan, result.graph))
    found.edits = found.edits.then(_below(edits, path))


def _is_shared(module: nn.Module, child: nn.Module) -> bool:
    """Whether the module itself, or a sibling, holds one of the child's tensors."""
    own = {id(tensor) for tensor in (*child.parameters(), *child.buffers())}
    others = [other for other in module.children() if other is not child]
    tensors = [tensor for other in others for tensor in (*other.parameters(), *other.buffers())]
    return any(id(tensor) in own for tensor in (*module._parameters.values(), *module._buffers.values(), *tensors))


def called_with(module: nn.Module, given: Arguments) -> Calls:
    """Run the module and note what each submodule that can be folded, by its id, is called with first.

    None where its calls don't have the same arguments but for the numbers in tensors. Raises BnfoldError where the
    module fails.
    """
    calls: dict[int, Arguments | None] = {}
    ways: dict[int, str] = {}

    def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        way = _way(args, kwargs)
        if id(part) not in calls:
            ways[id(part)], calls[id(part)] = way, fresh(Arguments(args, kwargs))
        elif way != ways[id(part)]:
            calls[id(part)] = None

    wanted = [part for part in module.modules() if next(part.children(), None) is not None and _holds_norms(part)]
    handles = [part.register_forward_pre_hook(note, prepend=True, with_kwargs=True) for part in wanted]
    try:
        with torch.no_grad(), unchanged(module):
            given = fresh(given)
            module(*given.args, **given.kwargs)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise BnfoldError(
            f"{type(module).__name__}: fails with inputs of shape {shapes(given)} ({type(error).__name__}: {first}); "
            "give example inputs that it takes"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _way(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Write what can decide on the path: all but the tensors."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return f"{spec} {['' if isinstance(item, Tensor) else item for item in leaves]}"


def _below(edits: ModuleEdits, path: str) -> ModuleEdits:
    return ModuleEdits(
        tuple(f"{path}.{name}" for name in edits.identity),
        {f"{path}.{name}": children for name, children in edits.kept_children.items()},
        {f"{path}.{name}": shape for name, shape in edits.biases.items()},
        tuple(f"{path}.{name}" for name in edits.copying),
        {f"{path}.{name}": shape for name, shape in edits.clips.items()},
    )


def _joined(parts: list[tuple[str, Plan, Graph]]) -> tuple[Plan, Graph]:
    """Put the plans and graphs beside each other, with every name below its submodule's path."""
    plans = [_renamed(plan, f"{path}.{{}}".format) for path, plan, _ in parts]
    graphs = [_graph(graph, path) for path, _, graph in parts]
    frames: dict[str, Chain] = {}
    values: dict[str, Value] = {}
    constants: dict[str, Constant] = {}
    for plan, graph in zip(plans, graphs, strict=True):
        frames.update(plan.frames)
        values.update(graph.values)
        constants.update(graph.constants)
    outcomes = tuple(outcome for plan in plans for outcome in plan.outcomes)
    edits = tuple(edit for plan in plans for edit in plan.edits)
    inputs = tuple(name for graph in graphs for name in graph.inputs)
    outputs = tuple(name for graph in graphs for name in graph.outputs)
    nodes = tuple(node for graph in graphs for node in graph.nodes)
    return Plan(outcomes, edits, frames), Graph(inputs, outputs, nodes, values, constants)


def plan_of_part(plan: Plan, path: str) -> Plan:
    """Give what a joined plan says about the submodule at `path`, with the names that it has on its own."""
    start = f"{path}."
    own = Plan(
        tuple(outcome for outcome in plan.outcomes if outcome.affine.startswith(start)),
        tuple(edit for edit in plan.edits if edit.node.startswith(start)),
        {name: chain for name, chain in plan.frames.items() if name.startswith(start)},
    )
    return _renamed(own, lambda name: name.removeprefix(start))


def _renamed(plan: Plan, named: Callable[[str], str]) -> Plan:
    def outcome(item: Folded | Kept) -> Folded | Kept:
        match item:
            case Folded(affine, into):
                return Folded(named(affine), tuple(map(named, into)))
            case Kept(affine, why):
                return Kept(named(affine), tuple(Reason(named(reason.node), reason.why) for reason in why))

    edits = tuple(replace(edit, node=named(edit.node)) for edit in plan.edits)
    frames = {named(name): chain for name, chain in plan.frames.items()}
    return Plan(tuple(map(outcome, plan.outcomes)), edits, frames)


def _graph(graph: Graph, path: str) -> Graph:
    def named(name: str) -> str:
        return f"{path}.{name}" if name else ""

    def node(item: Node) -> Node:
        return replace(
            item,
            name=named(item.name),
            inputs=tuple(map(named, item.inputs)),
            outputs=tuple(map(named, item.outputs)),
            unit=named(item.unit),
            sources=tuple(map(named, item.sources)),
        )

    return Graph(
        tuple(map(named, graph.inputs)),
        tuple(map(named, graph.outputs)),
        tuple(map(node, graph.nodes)),
        {named(name): replace(value, name=named(name)) for name, value in graph.values.items()},
        {named(name): replace(constant, name=named(name)) for name, constant in graph.constants.items()},
    )
