from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from bnfold import ops
from bnfold.graph import Graph, Node, Value
from bnfold.relation import Pinned, Site
from bnfold.rules import relation
from bnfold.rules.base import rewritten, ties
from bnfold.why import Why
from tests.rules.law import Case

MODULES = (import_module(f"tests.rules.{path.stem}") for path in Path(__file__).parent.glob("test_*.py"))
FAMILIES = [module for module in MODULES if hasattr(module, "HOLDS")]
RAW = {ops.Unknown, ops.Binary, ops.Unary}  # what is left of them when rules are asked has none
BARE = {ops.ShapeOf, ops.Parameter}  # ties nothing
NEVER_STOP = {ops.Identity, ops.Transpose, ops.Take, ops.Split, ops.Flip, ops.Tile}


def exercised(table):
    return {type(case.values[0].op) for family in FAMILIES for case in getattr(family, table)}


def every_op():
    found = {kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, ops.Op)}
    return found - {ops.Op}


def test_every_rule_is_exercised():
    assert exercised("HOLDS") == every_op() - RAW - BARE
    assert exercised("STOPS") | NEVER_STOP >= every_op() - RAW - BARE
    assert set(ties.registry) - {object} == every_op() - RAW
    assert set(rewritten.registry) - {object} <= exercised("HOLDS") | BARE


@pytest.mark.parametrize("op", [ops.Unknown("Softmax"), ops.Binary("add"), ops.Unary("neg")])
def test_an_operator_without_a_rule_is_left_alone(op):
    site = Case(op, ((2, 3), np.ones(3)), ((2, 3),)).site
    assert relation(site) == (Pinned(("x0", "y0"), Why.NO_RULE),)


def test_the_reader_of_a_shape_asks_nothing_of_it():
    assert relation(Case(ops.ShapeOf(), ((2, 3),)).site) == ()


def test_a_tensor_of_unknown_rank_is_left_alone():
    values = {name: Value(name, shape, "float32") for name, shape in (("x", None), ("y", (2, 3)))}
    node = Node("relu", ops.Relu(), ("x",), ("y",))
    assert relation(Site(node, Graph(("x",), ("y",), (node,), values, {}))) == (Pinned(("x", "y"), Why.UNKNOWN_SHAPE),)
