"""A plan in the terms of an ONNX file: which nodes change or go, and which tensors are written."""

from collections.abc import Mapping, Sequence

import numpy as np

from bnfold import ops
from bnfold.adapters.biases import wants_add
from bnfold.adapters.onnx_clips import clip_steps, open_bounds
from bnfold.adapters.onnx_constants import Dequantized, Known, dequantized
from bnfold.adapters.onnx_content import Content, Dense, Scaled
from bnfold.adapters.onnx_model import Model
from bnfold.adapters.onnx_tidy import cancel_layouts
from bnfold.adapters.onnx_work import Edited, Use, Work
from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Graph, Node
from bnfold.merging import fused_after
from bnfold.plan import Edit, Merge, Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants
from bnfold.relation import Contracted, Site
from bnfold.rounding import HALF
from bnfold.rules.linear import contraction


def edited(model: Model, graph: Graph, plan: Plan, *, norms: bool = True) -> Edited:
    """Carry out a plan. graph: the raised Graph that the plan was made for. norms: an affine may become a BatchNorm.

    Raises BnfoldError for an edit of a node that isn't there or can't take it: the plan is of another model.
    """
    editor = _Editor(model, graph, plan, norms)
    missing = next((edit.node for edit in plan.edits if edit.node not in graph.by_name), None)
    if missing is not None:
        raise BnfoldError(f"{model.name}: the plan names the node {missing!r}, which isn't there")
    for edit in (*plan.own, *plan.merges):
        editor.carry_out(edit, graph.by_name[edit.node])
    cancel_layouts(editor.result, graph)
    editor.join_arithmetic({edit.node for edit in plan.edits})
    return editor.result


class _Editor:
    def __init__(self, model: Model, graph: Graph, plan: Plan, norms: bool) -> None:
        self.model, self.graph, self.plan, self.norms = model, graph, plan, norms
        works = {n.name: Work(n, list(n.inputs), list(n.outputs), n.proto) for n in model.scopes.nodes}
        self.result = Edited(works)

    def carry_out(self, edit: Edit, node: Node) -> None:
        """Do one edit."""
        works = [self._work(name) for name in node.sources or (node.name,)]
        match edit:
            case Remove():
                self._drop(works)
                self.result.alias[node.output] = node.inputs[0]
            case ScaleWeight():
                self._scale(edit, node, works[0])
            case SetBias():
                self._set_bias(edit.bias, node, works)
            case SetConstants() if isinstance(node.op, ops.Affine):
                self._set_affine(edit.constants, node, works)
            case SetConstants() if isinstance(node.op, ops.Parameter):
                self._set_parameter(edit.constants[0], node.inputs[0], works)
            case SetConstants() if isinstance(node.op, ops.ChannelClip):
                sides = [edit.constants.get(k, self.graph.constants[node.inputs[k]].load()) for k in (1, 2)]
                self._clip(node, works, node.op.axis, *sides)
            case SetConstants() if isinstance(node.op, ops.Recurrent):
                for index, numbers in edit.constants.items():
                    self._set_operand(works[0], index, numbers, self._dtype(node.inputs[0]))
            case SetConstants():
                for index, numbers in edit.constants.items():
                    self._set_operand(works[0], index, numbers, self._dtype(works[0].inputs[index]))
            case SetBounds():
                self._set_bounds(edit, node, works)
            case ReplaceByClip():
                self._clip(node, works, edit.axis, edit.lo, edit.hi)
            case Merge():
                self._merge(edit, works[-1])

    def join_arithmetic(self, edited: set[str]) -> None:
        """Make one operator of arithmetic that is one affine and stays, where that is fewer operators."""
        for node in self.graph.nodes:
            free = not {"remove", "constants"} & set(node.limits) and node.name not in edited
            if not isinstance(node.op, ops.Affine) or len(node.sources) < 2 or not free:
                continue
            if not self.result.works.keys() >= set(node.sources):  # inside of a function, which stays
                continue
            works = [self._work(name) for name in node.sources]
            shape = self.graph.shape(node.inputs[0])
            if shape is None or node.op.axis >= len(shape) or any(work.dropped or work.replaced for work in works):
                continue
            if len(self._affine_steps({}, node)) < len(works):
                self._set_affine({}, node, works)

    def _work(self, name: str) -> Work:
        work = self.result.works.get(name)
        if work is None:
            raise BnfoldError(f"{self.model.name}: the plan edits {name!r}, which is no node of the file")
        self.result.touched.update(work.inputs)
        return work

    def _drop(self, works: list[Work]) -> None:
        for work in works:
            work.dropped = True

    def _dtype(self, name: str) -> str:
        constant = self.graph.constants.get(name)
        return constant.dtype if constant is not None else self.graph.values[name].dtype

    def _set_operand(self, work: Work, index: int, numbers: Floats, dtype: str) -> None:
        """Give an operand new numbers, in the shape that the old ones have where they are as many."""
        old = work.inputs[index] if index < len(work.inputs) else ""
        known = self.model.known.get(old)
        if known is not None and known.size == numbers.size:
            numbers = numbers.reshape(known.shape)
        self._use(work, index, Dense(np.asarray(numbers, np.float64), dtype), old)

    def _set_parameter(self, numbers: Floats, name: str, works: list[Work]) -> None:
        """Give those that read a constant as data new numbers for it."""
        for work in works:
            for index in [index for index, other in enumerate(work.inputs) if other == name]:
                self._set_operand(work, index, numbers, self._dtype(name))

    def _use(self, work: Work, index: int, content: Content, old: str) -> None:
        work.inputs += [""] * (index + 1 - len(work.inputs))
        self.result.uses.append(Use(work, index, content, old))

    # Linear nodes.

    def _contracted(self, node: Node) -> Contracted:
        found = contraction(Site(node, self.graph))
        if found is None:
            raise BnfoldError(f"{self.model.name}: the plan scales {node.name!r}, which is no linear node")
        return found

    def _scale(self, edit: ScaleWeight, node: Node, work: Work) -> None:
        contracted = self._contracted(node)
        name = contracted.weight
        known = self.model.known.get(name)
        if known is None or name not in work.inputs:
            constant = self.graph.constants[name]
            known = Known(name, constant.shape, constant.dtype, constant.load)
        index = next((k for k, other in enumerate(work.inputs) if other == name), 1)
        made = dequantized(known, self.model.known)
        if made is not None:
            self._scale_quantized(edit.out_factor, made, made.axes[contracted.out_axis])
            return
        content = Scaled(known, contracted, edit.out_factor, edit.in_factor)
        if edit.balance is not None and known.dtype in HALF:
            from bnfold.adapters.onnx_balanced import Balanced

            content = Balanced(known, contracted, edit.out_factor, edit.in_factor, edit.balance)
        self._use(work, index, content, work.inputs[index])

    def _scale_quantized(self, factor: Floats, made: Dequantized, axis: int) -> None:
        """Scale the scales: one for each output channel, with a zero point for each where there was one for all."""
        work = self._work(made.node.name)
        scale, zero = (self.model.known.get(name) for name in (*work.inputs, "")[1:3])
        assert scale is not None
        channels = len(factor)
        numbers = np.broadcast_to(scale.load().reshape(-1), channels) * factor
        self._use(work, 1, Dense(numbers, scale.dtype), work.inputs[1])
        if zero is not None and zero.size == 1 and zero.shape != (channels,):
            self._use(work, 2, Dense(np.full(channels, float(zero.load().reshape(()))), zero.dtype), work.inputs[2])
        work.rebuild(attributes={"axis": axis})

    def _set_bias(self, bias: Floats, node: Node, works: list[Work]) -> None:
        """Store the bias in the node; in an Add behind a MatMul or Einsum; or make a MatMul of matrices a Gemm."""
        work = works[0]
        dtype = self._dtype(self._contracted(node).weight)
        if wants_add(node, self.graph):
            self._add_behind(work, bias, dtype)
            return
        if isinstance(node.op, ops.MatMul | ops.Einsum):
            if len(works) == 2:
                index = 1 - works[1].inputs.index(works[0].outputs[0])
                self._set_operand(works[1], index, bias, dtype)
                return
            work.rebuild(op_type="Gemm")
        elif len(works) == 2:  # the Add goes, the operator has room
            work.outputs[0] = works[1].outputs[0]
            works[1].dropped = True
        if isinstance(node.op, ops.Gemm):
            bias = bias / node.op.beta
        elif not isinstance(node.op, ops.MatMul):
            bias = bias.reshape(-1)
        self._set_operand(work, 2, bias, dtype)

    def _add_behind(self, work: Work, bias: Floats, dtype: str) -> None:
        """Let an Add of its own give what the node gave."""
        from onnx import helper

        y, name = work.outputs[0], work.node.proto.name
        work.outputs[0] = f"{y}_unbiased"
        proto = helper.make_node("Add", [], [], name=f"{name}_bias" if name else "")
        add = Work(work.node, [work.outputs[0]], [y], proto)
        self._use(add, 1, Dense(bias, dtype), "")
        work.replaced = [work, add]

    def _merge(self, edit: Merge, work: Work) -> None:
        """Put a Conv in the place of a Sum, with numbers that take in what else the plan does to its branches."""
        from onnx import helper

        weight, bias = fused_after(self.graph, self.plan, edit)
        self.result.merged[edit.node] = weight, bias
        nodes = [self.graph.by_name[name] for name in edit.nodes]
        gone = [self._work(source) for node in nodes for source in node.sources or (node.name,)]
        self._drop(gone)
        self.result.uses = [use for use in self.result.uses if use.work not in gone]
        work.dropped, last = False, self.graph.by_name[(edit.after or (edit.node,))[-1]]
        work.outputs = [last.output]
        self._put(work, [("Conv", [weight, bias])], edit.x, self._dtype(last.output))
        assert edit.op.pads is not None
        attributes = {"strides": edit.op.strides, "dilations": edit.op.dilations, "group": edit.op.groups}
        attributes |= {"pads": (*(low for low, _ in edit.op.pads), *(high for _, high in edit.op.pads))}
        attributes |= {"kernel_shape": weight.shape[2:]}
        work.final[0].proto.attribute.extend(helper.make_attribute(name, new) for name, new in attributes.items())

    # Affines, clips and pads.

    def _set_affine(self, constants: Mapping[int, Floats], node: Node, works: list[Work]) -> None:
        """Put one affine operator in the place of the arithmetic: x * scale + shift along the axis."""
        from onnx import helper

        steps = self._affine_steps(constants, node)
        self._drop(works[:-1])
        self._put(works[-1], steps, node.inputs[0], self._dtype(node.inputs[0]))
        if steps[0][0] == "BatchNormalization":
            works[-1].final[0].proto.attribute.append(helper.make_attribute("epsilon", 0.0))
        assert works[-1].final[-1].outputs == [node.output]

    def _affine_steps(self, constants: Mapping[int, Floats], node: Node) -> list[tuple[str, list[Floats]]]:
        """Give the fewest operators that x * scale + shift takes, with their constants."""
        assert isinstance(node.op, ops.Affine)
        scale, shift = (constants.get(k, self.graph.constants[node.inputs[k]].load()) for k in (1, 2))
        shape, dtype = self.graph.shape(node.inputs[0]), self._dtype(node.inputs[0])
        rank = len(shape) if shape is not None else 0
        behind = (-1, *(1,) * (rank - 1 - node.op.axis))
        steps = [("Mul", scale)] * bool(np.any(scale != 1)) + [("Add", shift)] * bool(np.any(shift != 0))
        has_kernel = self.norms and (dtype != "bfloat16" or self.model.opset >= 14)
        if len(steps) == 2 and node.op.axis == 1 and rank >= 2 and has_kernel:
            return [("BatchNormalization", [scale, shift, np.zeros_like(scale), np.ones_like(scale)])]
        return [(kind, [numbers.reshape(behind)]) for kind, numbers in steps or [("Mul", scale)]]

    def _put(self, work: Work, steps: Sequence[tuple[str, Sequence[Floats]]], x: str, dtype: str) -> None:
        """Put a chain of operators, each with constants of its own, in the place of a node."""
        from onnx import helper

        name, outputs, last = work.node.proto.name, work.outputs, len(steps) - 1
        work.replaced = []
        for number, (kind, numbers) in enumerate(steps):
            y = outputs[0] if number == last else f"{outputs[0]}_{kind.lower()}"
            own = name if number == last else f"{name}_{kind.lower()}" if name else ""
            proto = helper.make_node(kind, [], [], name=own, doc_string=work.node.proto.doc_string)
            step = Work(work.node, [x], [y], proto)
            for index, array in enumerate(numbers, start=1):
                self._use(step, index, Dense(array, dtype), "")
            work.replaced.append(step)
            x = y

    def _set_bounds(self, edit: SetBounds, node: Node, works: list[Work]) -> None:
        """Bounds are attributes in opset 10 and before, operands after; Max and Min have one each."""
        work = works[0]
        if isinstance(node.op, ops.Pad):
            if self.model.opset < 11:
                work.rebuild(attributes={"value": float(edit.lo or 0.0)})
            else:
                self._set_operand(work, 2, np.asarray(edit.lo or 0.0), self._dtype(node.inputs[0]))
            return
        if work.proto.op_type in ("Max", "Min"):
            self._clip(node, works, None, *open_bounds(edit))
            return
        if self.model.opset < 11:
            given = {name: float(value) for name, value in (("min", edit.lo), ("max", edit.hi)) if value is not None}
            work.rebuild(without=("min", "max"), attributes=given)
            return
        for index, value in ((1, edit.lo), (2, edit.hi)):
            if value is not None:
                self._set_operand(work, index, np.asarray(value), self._dtype(node.inputs[0]))
            elif index < len(work.inputs):
                work.inputs[index] = ""

    def _clip(self, node: Node, works: list[Work], axis: int | None, lo: Floats, hi: Floats) -> None:
        """Put Max and Min in the place of a clip. axis: None where the bounds are one number."""
        shape = self.graph.shape(node.inputs[0])
        if shape is None or self.model.opset < 8:
            raise BnfoldError(
                f"{self.model.name}: {node.name!r} can't be a clip by channel in opset {self.model.opset}"
            )
        self._drop(works[:-1])
        self._put(works[-1], clip_steps(lo, hi, len(shape), axis), node.inputs[0], self._dtype(node.inputs[0]))
