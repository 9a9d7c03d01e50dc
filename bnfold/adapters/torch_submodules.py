"""Where torch.export can't follow a whole forward: the submodules that it can follow are folded, each on its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from bnfold.adapters.torch_capture import Arguments, CaptureError
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_restoring import unchanged
from bnfold.adapters.torch_sizes import shapes
from bnfold.adapters.torch_truth import fresh
from bnfold.affine import Affine
from bnfold.errors import BnfoldError
from bnfold.graph import Constant, Graph, Node, Value
from bnfold.plan import Folded, Kept, Plan, Reason
from bnfold.result import FoldResult

Fold = Callable[[nn.Module, Arguments], tuple[FoldResult, ModuleEdits]]


def fold_submodules(
    module: nn.Module, calls: Mapping[int, Arguments], fold: Fold, error: CaptureError
) -> tuple[Plan, Graph, tuple[ModuleEdits, tuple[str, ...]]]:
    """Fold in place what lies inside; gives the plan and the graph of all of them, and their edits with notes.

    calls: as `called_with` gives them. fold: folds one submodule in place, for its recorded inputs. error: why the
    whole can't be captured; it is raised where no submodule with BatchNorm can be captured either.
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


def _descend(module: nn.Module, prefix: str, calls: Mapping[int, Arguments], fold: Fold, found: _Found) -> None:
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


def _fold_child(child: nn.Module, path: str, calls: Mapping[int, Arguments], fold: Fold, found: _Found) -> None:
    try:
        result, edits = fold(child, calls[id(child)])
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
    """Whether a sibling holds one of the child's tensors."""
    own = {id(tensor) for tensor in (*child.parameters(), *child.buffers())}
    others = [other for other in module.children() if other is not child]
    return any(id(tensor) in own for other in others for tensor in (*other.parameters(), *other.buffers()))


def called_with(module: nn.Module, given: Arguments) -> dict[int, Arguments]:
    """Run the module and note what each submodule that can be folded, by its id, is called with first.

    Raises BnfoldError where it fails.
    """
    calls: dict[int, Arguments] = {}
    wanted = {id(part) for part in module.modules() if next(part.children(), None) is not None and _holds_norms(part)}

    def note(part: nn.Module, args: tuple[Any, ...]) -> None:
        if id(part) in wanted and all(isinstance(item, Tensor) for item in args):
            calls.setdefault(id(part), Arguments(tuple(item.clone() for item in args), {}))

    handle = register_module_forward_pre_hook(note)
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
        handle.remove()
    return calls


def _below(edits: ModuleEdits, path: str) -> ModuleEdits:
    return ModuleEdits(
        tuple(f"{path}.{name}" for name in edits.identity),
        {f"{path}.{name}": children for name, children in edits.kept_children.items()},
        {f"{path}.{name}": shape for name, shape in edits.biases.items()},
        tuple(f"{path}.{name}" for name in edits.copying),
    )


def _joined(parts: list[tuple[str, Plan, Graph]]) -> tuple[Plan, Graph]:
    """Put the plans and graphs beside each other, with every name below its submodule's path."""
    plans = [_plan(plan, path) for path, plan, _ in parts]
    graphs = [_graph(graph, path) for path, _, graph in parts]
    frames: dict[str, Affine] = {}
    inner: dict[str, Affine] = {}
    values: dict[str, Value] = {}
    constants: dict[str, Constant] = {}
    for plan, graph in zip(plans, graphs, strict=True):
        frames.update(plan.frames)
        inner.update(plan.inner)
        values.update(graph.values)
        constants.update(graph.constants)
    outcomes = tuple(outcome for plan in plans for outcome in plan.outcomes)
    edits = tuple(edit for plan in plans for edit in plan.edits)
    inputs = tuple(name for graph in graphs for name in graph.inputs)
    outputs = tuple(name for graph in graphs for name in graph.outputs)
    nodes = tuple(node for graph in graphs for node in graph.nodes)
    return Plan(outcomes, edits, frames, inner), Graph(inputs, outputs, nodes, values, constants)


def _plan(plan: Plan, path: str) -> Plan:
    def outcome(item: Folded | Kept) -> Folded | Kept:
        match item:
            case Folded(affine, into):
                return Folded(f"{path}.{affine}", tuple(f"{path}.{name}" for name in into))
            case Kept(affine, why):
                reasons = tuple(Reason(f"{path}.{reason.node}", reason.why) for reason in why)
                return Kept(f"{path}.{affine}", reasons)

    edits = tuple(replace(edit, node=f"{path}.{edit.node}") for edit in plan.edits)
    frames = ({f"{path}.{name}": frame for name, frame in of.items()} for of in (plan.frames, plan.inner))
    return Plan(tuple(map(outcome, plan.outcomes)), edits, *frames)


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
