"""ExportedProgram to ExportedProgram: a plan carried out on the graph, where what is only code can go as well."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bnfold.adapters import torch_truth
from bnfold.adapters.biases import fold_sparingly, without_biases
from bnfold.adapters.torch_capture import Arguments, quietly
from bnfold.adapters.torch_captured import of_program
from bnfold.adapters.torch_nodes import acts
from bnfold.adapters.torch_program_write import write_program
from bnfold.adapters.torch_reading import Reading, read_captured
from bnfold.adapters.torch_runs import MORE, enough, run, standard
from bnfold.errors import BnfoldError
from bnfold.graph import Graph
from bnfold.plan import Plan
from bnfold.raising import raised
from bnfold.result import FoldResult


def fold_program(
    program: ExportedProgram,
    *,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    plan: Plan | None = None,
    merge: bool = True,
    dry_run: bool = False,
    verify: bool = True,
) -> FoldResult:
    """Fold an exported program; the argument stays as it is.

    level, only, skip: as `bnfold.folding.fold` takes them. plan: a fold to carry out. merge: let parallel linear
    branches become one convolution. verify: hold the outputs for the program's own example inputs to the float64 truth.
    Raises BnfoldError where it can't be read, DifferentError where the result isn't the same function.
    """
    functional = functionalised(program)
    reading = read_captured(of_program(functional))
    graph = without_biases(raised(_alive(reading)))
    if plan is None:
        plan = fold_sparingly(graph, level=level, only=only, skip=skip, merge=merge)
    if dry_run or not plan.edits:
        return FoldResult(program, plan, graph, ())
    folded = write_program(functional, reading, graph, plan)
    notes = _verified(program, folded) if verify else ()
    return FoldResult(folded, plan, graph, notes)


def _alive(reading: Reading) -> Graph:
    """Give the graph without what nobody needs: it isn't written, and holds no frame."""
    alive = {node for node in reading.captured.graph.nodes if node.op == "output" or acts(node)}
    ahead = list(alive)
    while ahead:
        more = set(ahead.pop().all_input_nodes) - alive
        alive |= more
        ahead += more
    nodes = tuple(node for node in reading.graph.nodes if reading.sources[node.name] in alive)
    return replace(reading.graph, nodes=nodes)


def functionalised(program: ExportedProgram) -> ExportedProgram:
    """Give a program in which no operator writes to what it is given; the operators stay whole."""
    if any(_writes(node) for node in program.graph.nodes):
        with quietly():
            functional: ExportedProgram = program.run_decompositions({})
            return functional
    return program


def _writes(node: torch.fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _verified(program: ExportedProgram, folded: ExportedProgram) -> tuple[str, ...]:
    if program.example_inputs is None:
        return ("not run: the program holds no example inputs",)
    given = Arguments(*program.example_inputs)
    require_same_program(program, folded, given)
    return (f"checked with inputs of shape {', '.join('x'.join(map(str, item.shape)) for item in given.tensors)}",)


def require_same_program(program: ExportedProgram, folded: ExportedProgram, given: Arguments) -> None:
    """Run both. Raises DifferentError, UnverifiedError, or BnfoldError where the original doesn't run."""
    given = Arguments(*pytree.tree_map(_detached, (given.args, dict(given.kwargs))))
    with quietly():
        before, after = program.module(), folded.module()
        try:
            runs = enough(before, [run(before, given)], MORE)
        except BnfoldError:
            raise
        except Exception as error:
            raise BnfoldError(f"the program doesn't run with its inputs ({type(error).__name__}: {error})") from error
        own, unit = standard(runs), torch_truth.rounding(after)
        for one in runs:
            got = torch_truth.outputs(after, one.given)
            torch_truth.require_same(one.truth, one.reference, got, "the folded program", unit, own)


def _detached(item: Any) -> Any:
    return item.detach() if isinstance(item, Tensor) else item
