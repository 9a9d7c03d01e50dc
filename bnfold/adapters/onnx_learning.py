"""What the nodes of a model tell of its values while it is read, where inference says nothing."""

from collections.abc import Mapping

from bnfold.adapters.onnx_completing import completed, is_settled, of_branches, told_by_weight
from bnfold.adapters.onnx_model import Model
from bnfold.adapters.onnx_scopes import FileNode
from bnfold.graph import Constant, Value


def learn(reader: Model, node: FileNode, outputs: Mapping[str, Value]) -> None:
    """Add what a node tells of its first input, and of its outputs. outputs: by name, as far as they are known."""
    _told(reader, node)
    if not all(map(is_settled, outputs.values())):
        reader.values |= _completed(reader, node, outputs)


def chosen(reader: Model, node: FileNode, outputs: Mapping[str, Value]) -> dict[str, Value]:
    """Give the outputs of an If, with what its branches' results tell of them."""
    found = {name: _of_branches(reader, node, value) for name, value in outputs.items()}
    reader.completed |= {name for name in outputs if found[name] != outputs[name]}
    return found


def _of_branches(reader: Model, node: FileNode, output: Value) -> Value:
    index = node.outputs.index(output.name)
    names = [body.resolve(body.graph.output[index].name) or "" for body in node.bodies]
    constants = {name: reader.known[name].constant() for name in names if name in reader.known}
    return of_branches(output, [constants.get(name) or reader.values.get(name) for name in names])


def _told(reader: Model, node: FileNode) -> None:
    """Let a weight tell a length of what it is applied to."""
    x = reader.values.get(node.inputs[0]) if len(node.inputs) > 1 else None
    weight = None if x is None or is_settled(x) else reader.known.get(node.inputs[1])
    if x is not None and weight is not None and weight.name not in reader.overridable:
        told = told_by_weight(x, node.proto, weight.shape)
        if told is not x:
            reader.values[x.name] = told
            reader.completed.add(x.name)


def _completed(reader: Model, node: FileNode, outputs: Mapping[str, Value]) -> dict[str, Value]:
    """Add what inference left out, as the operators tell, or ONNX's own rule for what is known by now."""
    operands = _operands(reader, node)
    found = [outputs.get(name) or Value(name, None, "unknown") for name in node.outputs]
    found[0] = completed(found[0], node.kind, node.proto, operands)
    computed = (name in reader.completed or (name in reader.known and reader.known[name].node) for name in node.inputs)
    is_own = node.bodies or (node.proto.domain, node.kind) in reader.functions
    settled = all(is_settled(value) for value in found if value.name)
    if not settled and not is_own and node.kind == node.proto.op_type and any(computed):
        pairs = zip(node.proto.input, node.inputs, strict=True)
        known = {local: reader.known[name] for local, name in pairs if name in reader.known}
        from bnfold.adapters.onnx_node_shapes import inferred_values  # few models have such nodes

        found = inferred_values(found, node.proto, operands, known, reader.opset)
    reader.completed |= {value.name for value in found if value.name and value != outputs[value.name]}
    return {value.name: value for value in found if value.name}


def _operands(reader: Model, node: FileNode) -> list[Value | Constant | None]:
    found = (reader.known.get(name) for name in node.inputs)
    pairs = zip(node.inputs, found, strict=True)
    return [reader.values.get(name) if item is None else item.constant() for name, item in pairs]
