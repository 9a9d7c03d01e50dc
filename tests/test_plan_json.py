"""A plan that was saved is the plan, bit for bit; what isn't a plan for this model is refused."""

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from bnfold import ops
from bnfold.affine import Affine
from bnfold.errors import BnfoldError
from bnfold.folding import fold
from bnfold.graph import Constant, Graph
from bnfold.plan import (
    Folded,
    Kept,
    Merge,
    Plan,
    Reason,
    Remove,
    ReplaceByClip,
    ScaleWeight,
    SetBias,
    SetBounds,
    SetConstants,
)
from bnfold.plan_json import digest, dumps, from_json, loads, to_json
from bnfold.why import Why
from tests.building import Builder

HARD = np.array([1 / 3, -0.0, 5e-324, 1.7976931348623157e308, np.pi])
OPEN = np.array([-np.inf, np.inf, np.nan, 0.1, 1e16 + 2])
CONV = ops.Conv((1, 2), (1, 1), ((1, 1), (0, 2)), 4, "reflect")
PLAN = Plan(
    (Folded("bn1", ("conv1", "conv2")), Kept("bn2", (Reason("relu", Why.KINK), Reason("x", Why.INPUT)))),
    (
        ScaleWeight("conv1", HARD, HARD[::-1].copy()),
        SetBias("conv1", HARD.reshape(5, 1)),
        SetBias("conv2", np.array(0.3)),
        SetConstants("bn2", {1: HARD, 4: OPEN}),
        SetBounds("clip", -0.1, None),
        SetBounds("clip2", None, np.inf),
        ReplaceByClip("relu", 1, OPEN, OPEN[::-1].copy()),
        Remove("bn1"),
        Merge("add", "x", CONV, (("conv1", "bn1"), (), ("bn3",)), ("bn4",), ("add0",)),
        Merge("add2", "x", dataclasses.replace(CONV, pads=None), ((), ())),
    ),
    {
        "y": (Affine(1, HARD, OPEN),),
        "two": (Affine(1, HARD, OPEN), Affine(2, OPEN, HARD)),
        "four": (Affine(1, HARD, OPEN), Affine(2, OPEN, HARD), Affine(1, OPEN, OPEN), Affine(0, HARD, HARD)),
    },
)


def bits(item: Any) -> Any:
    """Turn arrays into their bytes and shapes, so that == compares bits."""
    if isinstance(item, np.ndarray):
        return item.dtype.str, item.shape, item.tobytes()
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return type(item).__name__, [bits(getattr(item, field.name)) for field in dataclasses.fields(item)]
    if isinstance(item, dict):
        return [(key, bits(value)) for key, value in item.items()]
    return [bits(part) for part in item] if isinstance(item, tuple | list) else item


def test_every_bit_comes_back() -> None:
    assert bits(loads(dumps(PLAN))) == bits(PLAN)


def test_every_kind_of_edit_is_in_the_test() -> None:
    assert {type(edit).__name__ for edit in PLAN.edits} == {
        "ScaleWeight",
        "SetBias",
        "SetConstants",
        "SetBounds",
        "ReplaceByClip",
        "Remove",
        "Merge",
    }


def test_the_file_is_plain_json() -> None:
    assert "NaN" not in dumps(PLAN)
    assert "Infinity" not in dumps(PLAN)
    assert json.loads(dumps(PLAN))["outcomes"][1]["why"][0] == {
        "node": "relu",
        "code": "kink",
        "sentence": Why.KINK.sentence,
        "advice": Why.KINK.advice,
    }


def test_the_digest_is_of_the_numbers() -> None:
    assert digest(loads(dumps(PLAN))) == digest(PLAN)
    other = dataclasses.replace(PLAN, frames={"y": (Affine(1, np.nextafter(HARD, 0), OPEN),)})
    assert digest(other) != digest(PLAN)


def network() -> Graph:
    b = Builder()
    return b.graph(b.relu("relu", b.batch_norm("bn", b.conv("conv", b.input(1, 3, 4, 4), 5))))


def with_other_numbers(graph: Graph, name: str) -> Graph:
    old = graph.constants[name]
    new = Constant(name, old.shape, old.dtype, lambda: old.load() * 1.001)
    return dataclasses.replace(graph, constants={**graph.constants, name: new})


def test_a_plan_fits_its_model_and_no_other() -> None:
    graph = network()
    text = dumps(fold(graph), graph)
    assert bits(loads(text, graph)) == bits(fold(graph))
    with pytest.raises(BnfoldError, match="other weights"):
        loads(text, with_other_numbers(graph, "bn.running_var"))
    b = Builder()
    with pytest.raises(BnfoldError, match="names 'bn'"):
        loads(text, b.graph(b.relu("relu", b.input(1, 3))), "plan.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "not a plan"),
        ('{"format": "bnfold.plan", "version": 9}', "version 9"),
        ('{"format": "bnfold.plan", "version": 1}', "damaged"),
        ("NaN", "not JSON"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(BnfoldError, match=message):
        loads(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("edits", 0, "edit"), "Explode"),
        (("edits", 0, "node"), 7),
        (("edits", 0, "out_factor"), ["a"]),
        (("edits", 1, "bias"), {"shape": [4], "numbers": [1.0]}),
        (("outcomes", 0, "outcome"), "lost"),
        (("outcomes", 1, "why", 0, "code"), "mood"),
        (("frames",), []),
        (("inner", "nowhere"), {"axis": 1, "scale": [1.0], "shift": [0.0]}),
        (("inner", "four", "inner", "inner"), {"axis": 1}),
    ],
)
def test_a_damaged_plan_is_refused(path: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(to_json(PLAN))
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BnfoldError, match="damaged"):
        from_json(data)
