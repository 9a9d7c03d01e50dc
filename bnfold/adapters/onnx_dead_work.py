"""Dead nodes while a plan is carried out: those whose operands it changes go, the others stay as they are."""

from collections.abc import Set

from bnfold.adapters.onnx_dead import inside, operands, results
from bnfold.adapters.onnx_model import Model
from bnfold.adapters.onnx_work import Edited


def drop_dead(model: Model, edited: Edited, changed: Set[str]) -> tuple[set[str], set[int]]:
    """Take out the dead nodes that read what has other numbers now, or isn't there any more.

    changed: the values and initializers with other numbers, and the initializers that are gone.
    Gives the initializers that nobody reads any more because of that, and the bodies of nodes that went, by their ids.
    """
    gone = changed | _gone(edited) | _scaled(model, edited)
    living = {id(scope) for scope in model.living}
    touched: set[str] = set()
    lost: set[int] = set()
    for node in model.scopes.nodes:
        if id(node.scope) not in living or gone.isdisjoint(operands(node)):
            continue
        if node in model.dead:
            edited.works[node.name].dropped = True
            touched.update(operands(node))
            lost |= {id(body) for each in (node, *inside(node)) for body in each.bodies}
            for inner in inside(node):
                del edited.works[inner.name]
        if node in model.dead or not model.known.keys().isdisjoint(node.outputs):  # constants that are made of others
            gone |= {name for name in node.outputs if name}
    left = {name for work in edited.works.values() for step in work.final for name in step.inputs}
    left |= {name for work in edited.works.values() if not work.dropped for name in results(work.node)}
    return (touched & model.initializers.keys()) - left, lost


def _gone(edited: Edited) -> set[str]:
    """Give the values that nothing computes any more."""
    made = {name for work in edited.works.values() for name in work.node.outputs if name}
    return made - {name for work in edited.works.values() for step in work.final for name in step.outputs}


def _scaled(model: Model, edited: Edited) -> set[str]:
    """Give the constants that are made by a node with another operand: a DequantizeLinear with other scales."""
    return {name for use in edited.uses for name in use.work.node.outputs if name in model.known}
