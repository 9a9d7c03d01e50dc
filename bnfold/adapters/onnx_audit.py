"""The certificate of a write: every weight that changes is computed a second time, from the frames, and compared.

The fold computes factors and biases by its rules and the writer applies them block by block; the audit starts from
what the frames mean, T = scale * T' + shift, and shares neither the rules nor the slicing:

    W'[o, i] = W[o, i] * scale_x[i] / scale_y[o]
    b'[o]    = (b[o] + sum W[o, i] * shift_x[i] - shift_y[o]) / scale_y[o]
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import field

import numpy as np

from bnfold import ops
from bnfold.adapters.onnx_blocks import channels_of_block
from bnfold.adapters.onnx_comparing import AuditError, as_bytes, check, dense
from bnfold.adapters.onnx_content import Content, Dense, Scaled, Scratch
from bnfold.affine import Floats, every, some
from bnfold.auditing.affines import gone, identity_error
from bnfold.auditing.at_once import PlainBiases, are_identities
from bnfold.auditing.frames import Seen, Term, UntoldError, ratios, refuse_unlike, seen
from bnfold.graph import Graph, Node
from bnfold.plan import Plan, Remove, ScaleWeight, SetBias, SetConstants
from bnfold.record import record
from bnfold.relation import Contracted, Site
from bnfold.rounding import HALF
from bnfold.rules.linear import channels_of, contraction

__all__ = ["Audit", "AuditError"]

_SAME = 1e-9  # relative to the terms: frames and factors come from one solution, by different arithmetic


@record(eq=False)
class Audit:
    """The plan that is carried out, on the raised graph that it was made for.

    ends: the frames before and behind the linear nodes that were looked at, by their outputs.
    """

    graph: Graph
    plan: Plan
    scratch: Scratch = field(default_factory=Scratch)
    ends: dict[str, tuple[Seen, Seen]] = field(default_factory=dict)

    def removed(self) -> None:
        """Check that each removed affine is what its tensors' frames say: scale_y = s scale_x, and so the shift.

        A channel whose frame has scale 0 says nothing of the tensor before; it is left out.
        """
        nodes = [self.graph.by_name[edit.node] for edit in self.plan.edits if isinstance(edit, Remove)]
        nodes = [node for node in nodes if isinstance(node.op, ops.BatchNorm | ops.Affine)]
        if are_identities(nodes, self.graph, self.plan.frames, _SAME):
            return
        for node in nodes:
            with _Told(node.name):
                one = gone(node, self.graph, self.plan.frames)
                wrong = identity_error(one.line, one.x, one.y) > _SAME
            if some(wrong & (one.x.scale != 0) & (one.y.scale != 0) & (one.line.slope != 0)):
                raise AuditError(f"{node.name}: its frames don't make it the identity; nothing was written")

    def linear(self) -> None:
        """Check what becomes of each linear node at whose ends frames are; the weights are checked as they are written.

        Scales along other axes than its channels' pass it; a weight that must change does; the bias is what the frames
        say, for which a weight that counts in it is read once more. That of dead channels makes the affine's
        shift come out behind it. Left out is a bias with a second axis.
        """
        own, inside = self.plan.own, self.plan.merged
        scaled = {edit.node: edit for edit in own if isinstance(edit, ScaleWeight)}
        biases = {edit.node: edit.bias for edit in own if isinstance(edit, SetBias)}
        plain = PlainBiases()
        for node in self.graph.nodes:
            framed = not self.plan.frames.keys().isdisjoint(node.inputs + node.outputs)
            if node.name in inside or not (framed or node.name in biases):
                continue
            contracted = contraction(Site(node, self.graph))
            if contracted is None:
                if node.name in biases:
                    raise AuditError(f"{node.name}: gets a bias, and is no linear node; nothing was written")
                continue
            with _Told(node.name):
                x, y = self._ends(contracted)
                refuse_unlike(x.elsewhere, y.elsewhere)
                if node.name not in scaled and any(some(np.abs(end.scale / y.scale[0] - 1) > _SAME) for end in (x, y)):
                    raise UntoldError("scales that its weight doesn't take up")
                old, new = self._old_bias(contracted), biases.get(node.name)
                dead = node.name in scaled and not every(scaled[node.name].out_factor)
                if dead or x.shifts or not plain.add(node.name, old, old if new is None else new, y):
                    self._bias(contracted, x, y, old, new)
                if dead:
                    self._dead(node, contracted, y, old if new is None else new)
        if name := plain.wrong(_SAME):
            raise AuditError(f"{name}: its bias isn't what the frames say; nothing was written")

    def merges(self, numbers: Mapping[str, tuple[Floats, Floats]]) -> None:
        """Check the weight and bias of each Conv that stands for branches. numbers: both, by the merge's node.

        Left out are biases of dead channels.
        """
        if not self.plan.merges:
            return
        from bnfold.auditing.comparing import FORMATS
        from bnfold.auditing.merges import UnlikeError, last_of, merged

        for merge in self.plan.merges:
            try:
                wanted = merged(self.graph, self.plan, merge, numbers[merge.node][0].shape)
            except (UnlikeError, UntoldError) as error:
                raise AuditError(f"{merge.node}: {error}; nothing was written") from error
            dtype = self.graph.values[merge.x].dtype
            unit, least = _SAME, 0.0
            if dtype in HALF:  # they are rounded; below the smallest normal number all have its spacing
                unit, least = 1.01 * 2.0 ** -FORMATS[dtype][0], 2.0 ** FORMATS[dtype][1]
            frames = self.plan.frames.get(last_of(self.graph, merge).output, ())
            live = seen(frames, 1, len(wanted[2]), {0: 0}).scale != 0
            (weight, bias), (right, sizes, base, terms) = numbers[merge.node], wanted
            wrong = weight.shape != right.shape or bool(
                np.any(np.abs(weight - right) > unit * np.maximum(sizes, least))
            )
            if wrong or np.any(live & (np.abs(bias - base) > unit * terms)):
                raise AuditError(f"{merge.node}: its numbers aren't those of its branches; nothing was written")

    def parameters(self) -> None:
        """Check the new numbers of constants that are data: c = scale c' + shift."""
        for edit in self.plan.edits:
            node = self.graph.by_name[edit.node]
            if not isinstance(edit, SetConstants) or not isinstance(node.op, ops.Parameter):
                continue
            old, new = self.graph.constants[node.inputs[0]].load(), edit.constants[0]
            back, shift = new, np.zeros_like(new)
            for frame in reversed(self.plan.frames.get(node.output, ())):
                back, shift = frame(back), frame(shift)
            terms = np.abs(old) + np.abs(shift)
            if new.shape != old.shape or np.any(np.abs(back - old) > _SAME * terms):
                raise AuditError(f"{node.name}: its numbers aren't what the frames say; nothing was written")

    def recurrent(self) -> None:
        """Check the new weights and biases of recurrent layers."""
        for edit in self.plan.edits:
            node = self.graph.by_name[edit.node]
            if not isinstance(edit, SetConstants) or not isinstance(node.op, ops.Recurrent):
                continue
            from bnfold.auditing.partial import expected

            with _Told(node.name):
                items = list(expected(node, self.graph, self._frame))
            for item in items:
                old = node.inputs[item.operand] if item.operand < len(node.inputs) else ""
                now = edit.constants.get(item.operand)
                if now is None:
                    now = self.graph.constants[old].load() if old else np.zeros(1)
                if now.size not in (1, item.numbers.size) or np.any(np.abs(now - item.numbers) > _SAME * item.sizes):
                    raise AuditError(f"{node.name}: its {item.part} isn't what the frames say; nothing was written")

    def _old_bias(self, contracted: Contracted) -> Floats:
        return contracted.beta * self.graph.constants[contracted.bias].load() if contracted.bias else np.zeros(1)

    def _bias(self, contracted: Contracted, x: Seen, y: Seen, old: Floats, new: Floats | None) -> None:
        """Raise UntoldError where a bias isn't (b + W d_x - d_y) / a_y. new: None where it stays."""
        before, now = old.reshape(-1), (old if new is None else new).reshape(-1)
        if {len(before), len(now)} - {1, len(y.scale)}:
            if y.elsewhere or any(term.elsewhere for term in (*x.shifts, *y.shifts)):
                raise UntoldError("a bias of several axes")
            return
        terms = [Term(before, {}, np.abs(before)), *self._spread(contracted, x, len(y.scale)), *y.negative()]
        for expected, size in ratios(terms, y.alive()):
            if some((np.abs(now - expected) > _SAME * size) & (y.scale != 0)):
                raise UntoldError("its bias isn't what the frames say")

    def _dead(self, node: Node, contracted: Contracted, y: Seen, bias: Floats) -> None:
        """Raise UntoldError where channels of scale 0 don't come out as the affine's shift."""
        from bnfold.adapters.onnx_audit_dead import refuse_other_shift  # few models have any

        refuse_other_shift(self.graph, self.plan, node, contracted, y.scale, bias.reshape(-1), _SAME)

    def _spread(self, contracted: Contracted, x: Seen, channels: int) -> list[Term]:
        """Give the terms of W d_x, each with the sum of the sizes of what it adds up."""
        weight = self.graph.constants[contracted.weight]
        sums = [(np.zeros(channels), np.zeros(channels)) for _ in x.shifts]
        for rows, slab in weight.slabs() if sums else ():
            block = (rows, *(slice(None),) * (slab.ndim - 1))
            outputs_at, inputs_at = (channels_of_block(contracted, weight.shape, block, side) for side in (0, 1))
            others = tuple(axis for axis, count in enumerate(outputs_at.shape) if count == 1)
            at = outputs_at.reshape(-1)
            for (total, size), shift in zip(sums, x.shifts, strict=True):
                terms = contracted.alpha * slab * shift.channels[inputs_at]
                total += np.bincount(at, terms.sum(others).reshape(-1), channels)
                size += np.bincount(at, np.abs(terms, out=terms).sum(others).reshape(-1), channels)
        return [Term(total, shift.elsewhere, size) for (total, size), shift in zip(sums, x.shifts, strict=True)]

    def _ends(self, contracted: Contracted) -> tuple[Seen, Seen]:
        """Look at the frames before and behind a linear node, from its channels."""
        found = self.ends.get(contracted.target)
        if found is None:
            found = self.ends[contracted.target] = self._seen(contracted)
        return found

    def _seen(self, contracted: Contracted) -> tuple[Seen, Seen]:
        inputs, outputs = channels_of(contracted, self.graph.constants[contracted.weight].shape)
        passed = {axis: axis for _, axis in contracted.passes}
        before, behind = (self.plan.frames.get(name, ()) for name in (contracted.source, contracted.target))
        x = seen(before, contracted.source_axis, inputs, dict(contracted.passes))
        return x, seen(behind, contracted.target_axis, outputs, passed)

    def stream(self, content: Content, name: str, write: Callable[[memoryview], None]) -> None:
        """Give the bytes of a tensor to `write`, part by part, each checked; a part holds until `write` returns.

        To be called under `row_by_row`. Raises AuditError, or BnfoldError where the dtype overflows.
        """
        if isinstance(content, Dense):
            write(dense(content, name))
            return
        assert isinstance(content, Scaled)
        factors, contracted, shape, dtype = self._factors(content), content.contracted, content.shape, content.dtype
        for block, before in content.blocks(self.scratch):
            after = content.scaled(block, before, self.scratch)
            parts = [factor[channels_of_block(contracted, shape, block, side)] for factor, side in factors]
            factor = math.prod(parts[1:], start=parts[0]) if parts else 1
            check(after, before, factor, dtype, self.scratch, name)
            write(as_bytes(after))

    def _frame(self, value: str, axis: int, channels: int) -> tuple[Floats, Floats]:
        """Give scale and shift along the axis; UntoldError where there are frames along others."""
        found = seen(self.plan.frames.get(value, ()), axis, channels)
        return found.scale, found.shift

    def _factors(self, content: Scaled) -> list[tuple[Floats, int]]:
        """Give 1 / scale_y (0), by output channel, and scale_x (1), by input channel, but for what is all 1."""
        contracted, dead = content.contracted, content.out_factor == 0
        source, target = self._ends(contracted)
        by_output = 1 / np.where(dead, np.inf, target.scale)
        return [(factor, side) for factor, side in ((source.scale, 1), (by_output, 0)) if some(factor != 1)]


@record(eq=False)
class _Told:
    """Lets what the frames don't tell of a node be a fault of the plan, in a `with` block."""

    node: str

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UntoldError):
            raise AuditError(f"{self.node}: {error}; nothing was written") from error
