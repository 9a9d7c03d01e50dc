"""What stands side by side once affines are gone: layout operators that undo each other."""

from bnfold.adapters.onnx_scopes import FileNode
from bnfold.adapters.onnx_work import Edited
from bnfold.graph import Graph

_SAME_ORDER = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")  # the elements stay in row-major order


def cancel_layouts(edited: Edited, graph: Graph) -> None:
    """Take out layout operators that undo each other, where only affines that are gone stood between them."""
    makers = {name: work for work in edited.works.values() for name in work.outputs if name}
    for reader in edited.works.values():
        gone = reader.inputs[0] if reader.inputs and not reader.dropped else ""
        root = gone
        while root in edited.alias:
            root = edited.alias[root]
        maker = makers.get(root) if root != gone else None
        if maker is None or maker.dropped or maker.node.scope is not reader.node.scope:
            continue
        if undoes(maker.node, reader.node, graph):
            reader.dropped = True
            edited.alias[reader.outputs[0]] = maker.inputs[0]
            edited.touched |= {*maker.outputs, *reader.inputs}


def undoes(first: FileNode, second: FileNode, graph: Graph) -> bool:
    """Whether second(first(x)) is x: Transposes with inverse permutations, or reshapes back to x's own shape."""
    if not (first.inputs and second.outputs and first.inputs[0] and second.outputs[0]):
        return False
    if first.kind == second.kind == "Transpose":
        one, other = (_permutation(node, graph) for node in (first, second))
        return one is not None and other is not None and [one[k] for k in other] == list(range(len(one)))
    if first.kind not in _SAME_ORDER or second.kind not in _SAME_ORDER:
        return False
    before, after = graph.values.get(first.inputs[0]), graph.values.get(second.outputs[0])
    if before is None or after is None or before.shape is None or before.shape != after.shape:
        return False
    return sum(not isinstance(dim, int) for dim in before.shape) <= 1 and None not in before.shape


def _permutation(node: FileNode, graph: Graph) -> list[int] | None:
    found = node.attribute("perm")
    if found is not None:
        return list(found.ints)
    value = graph.values.get(node.inputs[0])
    return None if value is None or value.shape is None else list(reversed(range(len(value.shape))))
