"""Counts what an ONNX model computes from its inputs."""

import onnx
from onnx import inliner

_FREE = {
    "Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Cast", "CastLike", "Dropout", "Slice",
    "Split", "Gather", "Expand", "Shape", "Concat", "Constant", "ConstantOfShape", "Range", "Size",
}  # fmt: skip
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}


class Counter:
    """Counts operators that depend on the inputs; `affines` are BatchNormalizations and arithmetic with constants.

    A chain of products and sums with constants is one affine. An Add right behind a MatMul or Einsum is its bias.
    """

    def __init__(self) -> None:
        self.affines = 0
        self.operators = 0

    def graph(self, graph: onnx.GraphProto, outer: frozenset[str], captured: bool = False) -> None:
        """Count a graph and its bodies; `outer` are the computed names around it."""
        stored = {tensor.name for tensor in graph.initializer}
        inputs = {item.name for item in graph.input} - (set() if captured else stored)
        computed, scaled, products = set(outer | inputs), set[str](), set[str]()
        for node in graph.node:
            bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
            for body in bodies:
                self.graph(body, frozenset(computed), captured=True)
            sides = [name for name in node.input if name in computed]
            if not sides and not bodies:
                continue
            computed |= set(node.output)
            if bodies or node.op_type in _FREE:
                scaled |= set(node.output) if scaled & set(sides) else set()
                continue
            fused = any(attribute.name == "activation" for attribute in node.attribute)  # ONNX Runtime's FusedConv
            self.operators += 1 + fused
            self._affine(node, sides, scaled, products)

    def _affine(self, node: onnx.NodeProto, sides: list[str], scaled: set[str], products: set[str]) -> None:
        if node.op_type in ("MatMul", "Einsum"):
            products |= set(node.output)
        if node.op_type == "BatchNormalization":
            self.affines += 1
        elif node.op_type in _ELEMENTWISE and len(node.input) == 2 and len(sides) == 1:
            if node.op_type == "Add" and sides[0] in products:
                return
            self.affines += not scaled & set(sides)
            scaled |= set(node.output)


def count(model: onnx.ModelProto) -> tuple[int, int]:
    """Give (affines, operators)."""
    counter = Counter()
    plain = inliner.inline_local_functions(model) if model.functions else model
    counter.graph(plain.graph, frozenset())
    return counter.affines, counter.operators
