"""The edits of a plan on an exported program's graph: new weights as placeholders, affines bypassed."""

from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from bnfold import ops
from bnfold.adapters.torch_audit import as_numpy, require_audited
from bnfold.adapters.torch_call import Derived, Operand
from bnfold.adapters.torch_program_graph import ProgramGraph
from bnfold.adapters.torch_reading import Reading
from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Graph, Node
from bnfold.merging import fused_after
from bnfold.plan import Edit, Merge, Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants
from bnfold.relation import Site
from bnfold.rounding import scaled
from bnfold.rules.linear import contraction

_ATEN = torch.ops.aten
_PARTLY_LINEAR = (ops.Recurrent, ops.Bilinear)
_BATCH_NORM = ("input", "weight", "bias", "running_mean", "running_var")
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}


def write_program(original: ExportedProgram, reading: Reading, graph: Graph, plan: Plan) -> ExportedProgram:
    """Give a new program with the plan carried out.

    reading: of `original`. graph: the reading's, raised. Raises BnfoldError.
    """
    writer = _Writer(original, reading, graph)
    for edit in plan.own:
        if not isinstance(edit, Remove):
            writer.apply(edit)
    for edit in plan.own:
        if isinstance(edit, Remove):
            writer.remove(graph.by_name[edit.node])
    for merge in plan.merges:
        writer.merge(merge, *fused_after(graph, plan, merge))
    require_audited(graph, plan, writer.stored)
    return writer.program.finished()


class _Writer:
    def __init__(self, original: ExportedProgram, reading: Reading, graph: Graph) -> None:
        self.reading = reading
        self.graph = graph
        self.program = ProgramGraph(original)
        self.by_name = self.program.by_name
        self.removed: dict[fx.Node, fx.Node] = {}
        self.numbers: dict[tuple[str, int], Floats] = {}  # what was written, by node and operand

    def stored(self, node: str, operand: int) -> Floats | None:
        """Give what an operand of a node of the raised graph holds now, for the audit."""
        if (node, operand) in self.numbers:
            return self.numbers[node, operand]
        inputs = self.graph.by_name[node].inputs
        name = inputs[operand] if operand < len(inputs) else ""
        return self.graph.constants[name].load() if name else None

    def apply(self, edit: Edit) -> None:
        node = self.graph.by_name.get(edit.node)
        if node is None:
            raise BnfoldError(f"the plan names {edit.node}, which this program hasn't; make the plan anew")
        match edit:
            case ScaleWeight():
                linear = contraction(Site(node, self.graph))
                if linear is None:
                    raise BnfoldError(f"{node.name}: has no constant weight to scale")
                weight = scaled(linear, self.graph.constants[linear.weight], edit)
                self._set(node, node.inputs.index(linear.weight), weight)
            case SetBias(_, bias):
                self._set_bias(node, bias)
            case SetConstants(_, constants) if isinstance(node.op, ops.Affine):
                self._rewrite_affine(node, node.op.axis, constants)
            case SetConstants(_, constants) if isinstance(node.op, ops.Parameter):
                self._set_parameter(node, constants[0])
            case SetConstants(_, constants):
                for index, numbers in constants.items():
                    self._set(node, index, numbers if isinstance(node.op, _PARTLY_LINEAR) else numbers.reshape(-1))
            case SetBounds(_, lo, hi):
                self._set_bounds(node, lo, hi)
            case ReplaceByClip(_, axis, lo, hi):
                self._clip(node, axis, lo, hi)
            case Remove():
                self.remove(node)
            case Merge():
                raise BnfoldError(f"{node.name}: merged branches can't be written into a .pt2 file; use .onnx")

    def remove(self, node: Node) -> None:
        """Let the readers of the output read the input, or what stands for that since its own node was removed."""
        old, new = self.by_name[node.output], self.by_name[node.inputs[0]]
        while new in self.removed:
            new = self.removed[new]
        self.removed[old] = new
        self.program.bypass(old, new)

    def merge(self, merge: Merge, weight: Floats, bias: Floats) -> None:
        """Put one convolution in the place of parallel branches and their sum."""
        last = self.graph.by_name[(merge.after or (merge.node,))[-1]]
        old, x = self.by_name[last.output], self.by_name[merge.x]
        while x in self.removed:
            x = self.removed[x]
        dtype = _DTYPES[self.graph.values[last.output].dtype]
        kernel = self._placeholder(f"{merge.node}.weight", weight, dtype, (merge.node, 1))
        shift = self._placeholder(f"{merge.node}.bias", bias, dtype, (merge.node, 2))
        conv = (_ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d)[len(merge.op.strides) - 1].default
        pads = merge.op.pads
        assert pads is not None, "a merge has numbers for its padding"

        def build(graph: fx.Graph) -> fx.Node:
            source, padding = x, [before for before, _ in pads]
            if any(before != after for before, after in pads):
                flat = [size for pair in reversed(pads) for size in pair]
                source, padding = graph.call_function(_ATEN.constant_pad_nd.default, (x, flat)), [0] * len(pads)
                source.meta.update(old.meta)
            rest = (list(merge.op.strides), padding, list(merge.op.dilations), merge.op.groups)
            return graph.call_function(conv, (source, kernel, shift, *rest))

        self.program.replace(old, build)

    def _source(self, node: Node, index: int = 0) -> str:
        return (node.sources or (node.name,))[index]

    def _fx(self, source: str) -> fx.Node:
        return self.by_name[self.reading.sources[source].name]

    # Operands.

    def _set(self, node: Node, index: int, numbers: Floats) -> None:
        """Give the node's operand new numbers, in a placeholder of its own where others read the old one."""
        source = self._source(node)
        operands = self.reading.operands[source]
        operand = operands[index] if index < len(operands) else None
        dtype = self._dtype_of(node, index)
        target = self._fx(source)
        names = [argument.name for argument in target.target._schema.arguments]  # type: ignore[union-attr]
        old = self._operand_node(operand)
        bound = dict(zip(names, _arguments(target, names), strict=True))
        if old is None:
            name = _BATCH_NORM[index] if isinstance(node.op, ops.BatchNorm) else "bias"
        else:
            name = next((key for key, item in bound.items() if item is old), "")
        of = "" if old is None else old.name
        path = f"{source}.{name}" if name else self.reading.graph.by_name[source].inputs[index]
        value = self._placeholder(path, numbers, dtype, (node.name, index), of)
        if name:
            _put(target, names, name, value)
        else:  # one of a list
            name = next(key for key, items in bound.items() if isinstance(items, list | tuple) and old in items)
            _put(target, names, name, [value if item is old else item for item in bound[name]])

    def _set_parameter(self, node: Node, numbers: Floats) -> None:
        """Give those that read a constant as data new numbers for it."""
        for reader in (self.graph.by_name[name] for name in node.sources):
            for index in [index for index, name in enumerate(reader.inputs) if name == node.output]:
                self._set(reader, index, numbers)
                self.numbers[node.name, 0] = self.numbers[reader.name, index]

    def _operand_node(self, operand: Operand) -> fx.Node | None:
        if isinstance(operand, Derived):
            operand = operand.source
        return self.by_name[operand.name] if isinstance(operand, fx.Node) else None

    def _dtype_of(self, node: Node, index: int) -> torch.dtype:
        name = (node.inputs[index] if index < len(node.inputs) else "") or node.output
        found = self.graph.constants.get(name) or self.graph.values[name]
        return _DTYPES[found.dtype]

    def _placeholder(
        self, path: str, numbers: Floats, dtype: torch.dtype, operand: tuple[str, int] | None = None, of: str = ""
    ) -> fx.Node:
        """Add a parameter to the program. operand: the node, and which of its operands, that it is. of: its origin."""
        node, tensor = self.program.parameter(path, numbers, dtype, of)
        if operand is not None:
            self.numbers[operand] = as_numpy(tensor)
        return node

    # Edits that change operators.

    def _set_bias(self, node: Node, bias: Floats) -> None:
        joined = len(node.sources) == 2
        match node.op:
            case ops.Conv() | ops.ConvTranspose() | ops.Linear() | ops.Bilinear():
                linear = self._fx(self._source(node))
                self._set_own_bias(node, linear, bias.reshape(-1))
                if joined:
                    self.program.bypass(self._fx(node.sources[1]), linear)
            case ops.Gemm(beta=beta) if not joined and len(node.inputs) > 2 and node.inputs[2]:
                self._set(node, 2, bias / beta)
                self.numbers[node.name, 2] = self.numbers[node.name, 2] * beta
            case ops.MatMul() | ops.Gemm() | ops.Einsum():
                self._add_behind(node, bias)
            case _:
                raise BnfoldError(f"{node.name}: a {type(node.op).__name__} takes no bias")

    def _set_own_bias(self, node: Node, linear: fx.Node, bias: Floats) -> None:
        source = self._source(node)
        names = [argument.name for argument in linear.target._schema.arguments]  # type: ignore[union-attr]
        dtype, weight = _DTYPES[self.graph.values[node.output].dtype], node.inputs[1]
        value = self._placeholder(f"{source}.bias", bias, dtype, (node.name, 2), f"{weight}#bias")
        _put(linear, names, "bias", value)

    def _add_behind(self, node: Node, bias: Floats) -> None:
        """Add the bias behind a product, in the place of the Add that was there."""
        product = self._fx(self._source(node))
        dtype = _DTYPES[self.graph.values[node.output].dtype]
        value = self._placeholder(f"{self._source(node)}.bias", bias, dtype, (node.name, 2))
        old = self.by_name[node.output]
        self.program.replace(old, lambda graph: graph.call_function(_ATEN.add.Tensor, (product, value)))

    def _rewrite_affine(self, node: Node, axis: int, constants: Any) -> None:
        """Write a kept affine that was made of arithmetic as a product and a sum."""
        x, old = self.by_name[node.inputs[0]], self.by_name[node.output]
        dtype = _DTYPES[self.graph.values[node.output].dtype]
        rank = len(self.graph.values[node.output].shape or ())
        parts = []
        for index, name in ((1, "scale"), (2, "shift")):
            numbers = constants.get(index)
            numbers = self.graph.constants[node.inputs[index]].load() if numbers is None else numbers
            numbers = _along(numbers, axis, rank)
            parts.append(self._placeholder(f"{node.name}.{name}", numbers, dtype, (node.name, index)))

        def build(graph: fx.Graph) -> fx.Node:
            product = graph.call_function(_ATEN.mul.Tensor, (x, parts[0]))
            product.meta.update(old.meta)
            return graph.call_function(_ATEN.add.Tensor, (product, parts[1]))

        self.program.replace(old, build)

    def _set_bounds(self, node: Node, lo: float | None, hi: float | None) -> None:
        target = self._fx(self._source(node))
        if isinstance(node.op, ops.Pad):
            names = [argument.name for argument in target.target._schema.arguments]  # type: ignore[union-attr]
            _put(target, names, "value", 0.0 if lo is None else lo)
            return
        x = self.by_name[node.inputs[0]]
        self.program.replace(target, lambda graph: graph.call_function(_ATEN.clamp.default, (x, lo, hi)))

    def _clip(self, node: Node, axis: int, lo: Floats, hi: Floats) -> None:
        old, x = self._fx(self._source(node)), self.by_name[node.inputs[0]]
        dtype = _DTYPES[self.graph.values[node.output].dtype]
        rank = len(self.graph.values[node.output].shape or ())
        bounds: list[fx.Node | None] = []
        for name, numbers in (("lo", lo), ("hi", hi)):
            if np.isinf(numbers).all():
                bounds.append(None)
                continue
            least = torch.finfo(dtype)
            finite = np.clip(_along(numbers, axis, rank), least.min, least.max)
            bounds.append(self._placeholder(f"{node.name}.{name}", finite, dtype))
        self.program.replace(old, lambda graph: graph.call_function(_ATEN.clamp.Tensor, (x, *bounds)))


def _arguments(node: fx.Node, names: list[str]) -> list[Any]:
    return [node.args[k] if k < len(node.args) else node.kwargs.get(name) for k, name in enumerate(names)]


def _put(node: fx.Node, names: list[str], name: str, value: Any) -> None:
    index = names.index(name)
    if index < len(node.args):
        node.update_arg(index, value)
    else:
        node.update_kwarg(name, value)


def _along(numbers: Floats, axis: int, rank: int) -> Floats:
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(numbers).reshape(shape)
