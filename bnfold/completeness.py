"""Whether a plan that somebody gives holds every edit that its outcomes and frames imply.

A frame says that a tensor becomes another one, T = scale * T' + shift. That is so only where every operator around it
is rewritten; a plan that lacks one of these edits still looks right in all the numbers that it does write.
"""

from collections.abc import Iterator, Mapping, Set

import numpy as np

from bnfold.affine import Affine, Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Graph, Node
from bnfold.ops import Gemm
from bnfold.plan import Edit, Folded, Plan, Remove, ScaleWeight, SetBias, SetConstants
from bnfold.relation import Site
from bnfold.rules import rewritten
from bnfold.rules.linear import contraction


def refuse_incomplete(graph: Graph, plan: Plan) -> None:
    """Raise BnfoldError where the plan lacks an edit, or its frames are none of this graph's tensors.

    graph: the raised one that the plan is to be carried out on.
    """
    for name, chain in plan.frames.items():
        for frame in chain:
            _refuse_misfit(graph, name, frame)
    merged = plan.merged
    removed = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
    for outcome in plan.outcomes:
        if isinstance(outcome, Folded) and outcome.affine not in merged | removed:
            raise BnfoldError(f"{outcome.affine}: the plan says that it is folded, and doesn't remove it; make it anew")
    present = {part for edit in plan.edits for part in _parts(edit)}
    frames = {name: chain[0] for name, chain in plan.frames.items() if len(chain) == 1}
    alive = {name: _alive(frame) for name, frame in frames.items()}
    several = set[str]()
    for node in graph.nodes:
        around = {*node.inputs, *node.outputs}
        if node.name in merged | removed or plan.frames.keys().isdisjoint(around):
            continue
        if (plan.frames.keys() - frames.keys()) & around:  # what they imply isn't that of any of them
            several.add(node.name)
            continue
        for part in _implied(node, graph, frames, alive):
            if part not in present:
                raise BnfoldError(
                    f"{node.name}: the plan's frames imply the edit {part[0]}, which it lacks; make it anew"
                )

    if several:
        _refuse_other_numbers(graph, plan, several)


def _refuse_other_numbers(graph: Graph, plan: Plan, nodes: Set[str]) -> None:
    """Raise BnfoldError where one of the nodes beside several frames of a tensor isn't what these make of it."""
    from bnfold.adapters.memory import BIAS, written
    from bnfold.auditing import audit

    try:
        folded = written(graph, plan, is_exact=True)
    except (KeyError, ValueError) as error:
        raise BnfoldError(f"the plan can't be carried out ({error}); make it anew") from error

    def operand(node: str, index: int) -> Floats | None:
        found = folded.by_name[node]
        name = found.inputs[index] if index < len(found.inputs) else ""
        beta = found.op.beta if isinstance(found.op, Gemm) and index == BIAS else 1.0
        return beta * folded.constants[name].load() if name else None

    for row in audit(graph, plan, operand):
        if row.node in nodes and not row.passed:
            raise BnfoldError(f"{row.node}: its {row.part} isn't what the plan's frames say; make the plan anew")


def _implied(
    node: Node, graph: Graph, frames: Mapping[str, Affine], alive: Mapping[str, Affine]
) -> Iterator[tuple[str, str, int]]:
    site = Site(node, graph)
    try:
        edits = rewritten(node.op, site, alive)
    except AssertionError as error:  # the rules rely on frames that the relations allow
        raise BnfoldError(f"{node.name}: the plan's frames contradict what it computes; make the plan anew") from error
    for edit in edits:
        yield from _parts(edit)
    linear, frame = contraction(site), frames.get(node.output)
    if linear is not None and frame is not None and np.any(frame.scale == 0):
        yield from _parts(ScaleWeight(node.name, frame.scale, frame.scale))  # its rows become zero
        if linear.bias:  # which comes to what counts behind; one that there isn't may stay away if that is 0
            yield from _parts(SetBias(node.name, frame.shift))


def _parts(edit: Edit) -> Iterator[tuple[str, str, int]]:
    """Give kind, node and operand of what an edit changes."""
    kind = type(edit).__name__
    if isinstance(edit, SetConstants):
        yield from ((kind, edit.node, index) for index in edit.constants)
    else:
        yield kind, edit.node, -1


def _alive(frame: Affine) -> Affine:
    """Give a frame without its dead channels, in which the new tensor says nothing of the old one."""
    dead = frame.scale == 0
    return Affine(frame.axis, np.where(dead, 1.0, frame.scale), np.where(dead, 0.0, frame.shift))


def _refuse_misfit(graph: Graph, name: str, frame: Affine) -> None:
    value = graph.values.get(name)
    shape = None if value is None else value.shape
    fits = shape is not None and 0 <= frame.axis < len(shape) and shape[frame.axis] == len(frame.scale)
    if not fits or len(frame.scale) != len(frame.shift):
        raise BnfoldError(f"the plan has a frame of {frame.channels} channels for {name!r}, which has none such")
    if not (np.isfinite(frame.scale).all() and np.isfinite(frame.shift).all()):
        raise BnfoldError(f"the plan's frame of {name!r} isn't finite; make the plan anew")
