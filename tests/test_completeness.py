"""A plan that a fold made is whole; without any one of its edits it is refused."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bnfold.affine import Affine
from bnfold.completeness import refuse_incomplete
from bnfold.errors import BnfoldError
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Balance, Merge, Plan, SetConstants
from tests.networks import network

SEEDS = (*range(80), 93)  # in 93 a tensor has several frames


def plans() -> Iterator[tuple[Graph, Plan]]:
    for seed in SEEDS:
        graph = network(seed)
        for level in ("default", "max"):
            yield graph, fold(graph, level=level, merge=True)


def test_what_a_fold_made_is_whole() -> None:
    for graph, plan in plans():
        refuse_incomplete(graph, plan)


def test_no_edit_can_be_left_out() -> None:
    assert any(len(frames) > 1 for _, plan in plans() for frames in plan.frames.values())
    tried = set[str]()
    for graph, plan in plans():
        merged = {name for edit in plan.edits if isinstance(edit, Merge) for name in edit.nodes}
        for place, edit in enumerate(plan.edits):
            if isinstance(edit, Merge | Balance) or edit.node in merged:
                continue  # a plan without a merge is a plan; so is one whose numbers are rounded singly
            tried.add(type(edit).__name__)
            with pytest.raises(BnfoldError, match=edit.node):
                refuse_incomplete(graph, replace(plan, edits=(*plan.edits[:place], *plan.edits[place + 1 :])))
    assert tried >= {"Remove", "ScaleWeight", "SetBias", "SetConstants", "ReplaceByClip"}


def test_no_operand_can_be_left_out() -> None:
    tried = 0
    for graph, plan in plans():
        for place, edit in enumerate(plan.edits):
            if isinstance(edit, SetConstants) and len(edit.constants) > 1:
                tried += 1
                less = SetConstants(edit.node, dict(list(edit.constants.items())[1:]))
                with pytest.raises(BnfoldError, match=edit.node):
                    refuse_incomplete(graph, replace(plan, edits=(*plan.edits[:place], less, *plan.edits[place + 1 :])))
    assert tried


@pytest.mark.parametrize("change", ["axis", "channels", "name", "nan"])
def test_frames_of_another_graph_are_refused(change: str) -> None:
    graph, plan = next((graph, plan) for graph, plan in plans() if plan.frames)
    name, (frame,) = next(iter(plan.frames.items()))
    other = {
        "axis": (name, Affine(9, frame.scale, frame.shift)),
        "channels": (name, Affine(frame.axis, frame.scale[:-1], frame.shift[:-1])),
        "name": ("nowhere", frame),
        "nan": (name, Affine(frame.axis, frame.scale * float("nan"), frame.shift)),
    }[change]
    with pytest.raises(BnfoldError, match=other[0]):
        refuse_incomplete(graph, replace(plan, frames={**plan.frames, other[0]: (other[1],)}))
