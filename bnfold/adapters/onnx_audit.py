"""The certificate of a write: every weight that changes is computed a second time, from the frames, and compared.

The fold computes factors and biases by its rules and the writer applies them block by block; the audit starts from
what the frames mean, T = scale * T' + shift, and shares neither the rules nor the slicing:

    W'[o, i] = W[o, i] * scale_x[i] / scale_y[o]
    b'[o]    = (b[o] + sum W[o, i] * shift_x[i] - shift_y[o]) / scale_y[o]
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.adapters.onnx_content import Block, Content, Dense, Scaled, Scratch, rounded
from bnfold.adapters.onnx_evaluators import Array
from bnfold.affine import Affine, Floats, every, some
from bnfold.auditing.comparing import FORMATS
from bnfold.auditing.merges import UnlikeError, last_of, merged
from bnfold.dtypes import numpy_dtype
from bnfold.errors import BnfoldError
from bnfold.graph import Graph
from bnfold.plan import Plan, Remove, ScaleWeight, SetBias, SetConstants
from bnfold.record import record
from bnfold.relation import Contracted, Site
from bnfold.rounding import HALF
from bnfold.rules.affine import affine_of
from bnfold.rules.linear import channels_of, contraction

Places: TypeAlias = NDArray[np.intp]
_SAME = 1e-9  # relative to the terms: frames and factors come from one solution, by different arithmetic


class AuditError(BnfoldError):
    """What would be written isn't what the plan says. Nothing is written."""


@record(eq=False)
class Audit:
    """The plan that is carried out, on the raised graph that it was made for."""

    graph: Graph
    plan: Plan
    scratch: Scratch = field(default_factory=Scratch)

    def removed(self) -> None:
        """Check that each removed affine is what its tensors' frames say: scale_y = s scale_x, and so the shift.

        A channel whose frame has scale 0 says nothing of the tensor before; it is left out.
        """
        for edit in self.plan.edits:
            node = self.graph.by_name[edit.node]
            if not isinstance(edit, Remove) or not isinstance(node.op, ops.BatchNorm | ops.Affine):
                continue
            affine = affine_of(Site(node, self.graph))
            before = self._frame(node.inputs[0], affine.axis, affine.channels)
            after = self._frame(node.output, affine.axis, affine.channels)
            alive = (before.scale != 0) & (after.scale != 0) & (affine.scale != 0)
            terms = np.abs(affine.scale * before.shift) + np.abs(affine.shift) + np.abs(after.shift)
            if isinstance(node.op, ops.BatchNorm):  # beta and mean * s may cancel, and leave their rounding
                terms += np.abs(affine.scale * self.graph.constants[node.inputs[3]].load())
            wrong = np.abs(affine.scale * before.scale - after.scale) > _SAME * np.abs(after.scale)
            wrong |= np.abs(affine.scale * before.shift + affine.shift - after.shift) > _SAME * terms
            if some(wrong & alive):
                raise AuditError(f"{node.name}: its frames don't make it the identity; nothing was written")

    def biases(self) -> None:
        """Check each new bias; a weight that counts in it is read once more.

        Left out are dead channels, whose bias the affine behind decides, and a bias with a second axis.
        """
        zeroed = {edit.node for edit in self.plan.own if isinstance(edit, ScaleWeight) and not every(edit.out_factor)}
        for edit in self.plan.own:
            if not isinstance(edit, SetBias) or edit.node in zeroed:
                continue
            contracted = contraction(Site(self.graph.by_name[edit.node], self.graph))
            if contracted is None:
                raise AuditError(f"{edit.node}: gets a bias, and is no linear node; nothing was written")
            inputs, outputs = channels_of(contracted, self.graph.constants[contracted.weight].shape)
            if edit.bias.size != outputs:
                continue
            expected, terms = self._bias(contracted, inputs, outputs)
            wrong = np.abs(edit.bias.reshape(-1) - expected) > _SAME * terms
            if some(wrong):
                raise AuditError(f"{edit.node}: its bias isn't what the frames say; nothing was written")

    def merges(self, numbers: Mapping[str, tuple[Floats, Floats]]) -> None:
        """Check the weight and bias of each Conv that stands for branches. numbers: both, by the merge's node.

        Left out are biases of dead channels.
        """
        for merge in self.plan.merges:
            try:
                wanted = merged(self.graph, self.plan, merge, numbers[merge.node][0].shape)
            except UnlikeError as error:
                raise AuditError(f"{error}; nothing was written") from error
            dtype = self.graph.values[merge.x].dtype
            unit, least = _SAME, 0.0
            if dtype in HALF:  # they are rounded; below the smallest normal number all have its spacing
                unit, least = 1.01 * 2.0 ** -FORMATS[dtype][0], 2.0 ** FORMATS[dtype][1]
            live = self._frame(last_of(self.graph, merge).output, 1, len(wanted[2])).scale != 0
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
            found = (frames.get(node.output) for frames in (self.plan.inner, self.plan.frames))
            frames = [frame for frame in found if frame is not None]
            back, shift = new, np.zeros_like(new)
            for frame in frames:
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

            for item in expected(node, self.graph, self._scale_and_shift):
                old = node.inputs[item.operand] if item.operand < len(node.inputs) else ""
                now = edit.constants.get(item.operand)
                if now is None:
                    now = self.graph.constants[old].load() if old else np.zeros(1)
                if now.size not in (1, item.numbers.size) or np.any(np.abs(now - item.numbers) > _SAME * item.sizes):
                    raise AuditError(f"{node.name}: its {item.part} isn't what the frames say; nothing was written")

    def _bias(self, contracted: Contracted, inputs: int, outputs: int) -> tuple[Floats, Floats]:
        """Give b' and the sum of the sizes of its terms."""
        source = self._frame(contracted.source, contracted.source_axis, inputs)
        target = self._frame(contracted.target, contracted.target_axis, outputs)
        old = contracted.beta * self.graph.constants[contracted.bias].load() if contracted.bias else np.zeros(1)
        total, size = np.zeros(outputs), np.zeros(outputs)
        if some(source.shift):
            weight = self.graph.constants[contracted.weight]
            for rows, slab in weight.slabs():
                block = (rows, *(slice(None),) * (slab.ndim - 1))
                outputs_at, inputs_at = (_channels(contracted, weight.shape, block, side) for side in (0, 1))
                terms = contracted.alpha * slab * source.shift[inputs_at]
                others = tuple(axis for axis, count in enumerate(outputs_at.shape) if count == 1)
                at = outputs_at.reshape(-1)
                total += np.bincount(at, terms.sum(others).reshape(-1), outputs)
                size += np.bincount(at, np.abs(terms, out=terms).sum(others).reshape(-1), outputs)
        scale = np.where(target.scale == 0, 1.0, target.scale)
        flat = np.broadcast_to(old.reshape(-1), outputs)
        expected = (flat + total - target.shift) / scale
        return expected, (np.abs(flat) + size + np.abs(target.shift)) / np.abs(scale)

    def stream(self, content: Content, name: str, write: Callable[[memoryview], None]) -> None:
        """Give the bytes of a tensor to `write`, part by part, each checked; a part holds until `write` returns.

        To be called under `row_by_row`. Raises AuditError, or BnfoldError where the dtype overflows.
        """
        if isinstance(content, Dense):
            write(_dense(content, name))
            return
        assert isinstance(content, Scaled)
        factors = self._factors(content)
        for block, before in content.blocks(self.scratch):
            after = content.scaled(block, before, self.scratch)
            places = (_channels(content.contracted, content.shape, block, side) for _, side in factors)
            factor = math.prod(factor[place] for (factor, _), place in zip(factors, places, strict=True))
            _check(after, before, factor, content.dtype, self.scratch, name)
            write(_bytes(after))

    def _scale_and_shift(self, value: str, axis: int, channels: int) -> tuple[Floats, Floats]:
        frame = self._frame(value, axis, channels)
        return frame.scale, frame.shift

    def _frame(self, value: str, axis: int, channels: int) -> Affine:
        frame = self.plan.frame(value, axis)
        return Affine.identity(axis, channels) if frame is None else frame

    def _factors(self, content: Scaled) -> list[tuple[Floats, int]]:
        """Give 1 / scale_y (0), by output channel, and scale_x (1), by input channel, but for what is all 1."""
        contracted, dead = content.contracted, content.out_factor == 0
        source = self._frame(contracted.source, contracted.source_axis, len(content.in_factor)).scale
        target = self._frame(contracted.target, contracted.target_axis, len(content.out_factor)).scale
        target = 1 / np.where(dead, np.inf, target)
        return [(factor, side) for factor, side in ((source, 1), (target, 0)) if some(factor != 1)]


def _check(after: Array, before: Array, factor: Floats | int, dtype: str, scratch: Scratch, name: str) -> None:
    """Hold W' against W * factor, which broadcasts against it; weights that were NaN or infinite before stay so.

    Raises AuditError where numbers are more than 1 ULP apart (8 in float64), BnfoldError where they overflow.
    """
    ulps = 8 if dtype == "float64" else 1  # there both sides round at each of their three steps
    _refuse_overflow(after, before, name)
    if dtype == "bfloat16":
        wanted = rounded(before.astype(np.float64) * factor, dtype)
        held = bytearray(_bytes(wanted))
    else:
        held = scratch.bytes("wanted", before.nbytes)
        wanted = np.frombuffer(held, before.dtype, before.size).reshape(before.shape)
        np.multiply(before, factor, out=wanted, dtype=np.float64, casting="unsafe")
    # Three times as quick as NumPy's comparison; beyond these bytes stand those of a larger block.
    if after.shape == wanted.shape and held.startswith(_bytes(after)):
        return
    expected = before.astype(np.float64) * factor
    apart = np.abs(after.astype(np.float64) - expected) > ulps * _ulp(wanted, dtype)
    if np.any(apart & np.isfinite(expected)):
        raise AuditError(
            f"{name}: {int(apart.sum())} numbers are more than {ulps} ULP from what the frames say; nothing was written"
        )


def _dense(content: Dense, name: str) -> memoryview:
    after = rounded(content.numbers, content.dtype)
    _refuse_overflow(after, content.numbers, name)
    if content.nbytes < after.nbytes:  # a zero point of four bits: two share a byte
        from onnx import numpy_helper

        return memoryview(numpy_helper.from_array(after).raw_data)
    return _bytes(after)


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _channels(contracted: Contracted, shape: tuple[int, ...], block: Block, side: int) -> Places:
    """Number the output (side 0) or input (1) channel of each element of a block, shaped to broadcast against it."""
    axis, other = (contracted.out_axis, contracted.in_axis)[:: -1 if side else 1]
    channels = _along(axis, shape, block)
    if contracted.groups == 1 or axis < other:
        return channels
    return _along(0, shape, block) // (shape[0] // contracted.groups) * shape[1] + channels


def _along(axis: int, shape: tuple[int, ...], block: Block) -> Places:
    """Number a block's elements along an axis."""
    return np.arange(shape[axis])[block[axis]].reshape([-1 if k == axis else 1 for k in range(len(shape))])


def _ulp(wanted: Array, dtype: str) -> Floats:
    """The spacing of the dtype's numbers at these."""
    if dtype == "bfloat16":
        exponent = np.frexp(wanted.astype(np.float64))[1]
        spacing: Floats = np.ldexp(1.0, np.maximum(exponent - 8, -133))
        return spacing
    with np.errstate(all="ignore"):
        found: Floats = np.spacing(np.abs(wanted.astype(numpy_dtype(dtype)))).astype(np.float64)
    return found


def _all_finite(numbers: Array) -> bool:
    """Whether all are finite, for certain: the squares of large ones may overflow, and then it says no."""
    if numbers.dtype.itemsize < 4:
        return numbers.size == 0 or (math.isfinite(numbers.max()) and math.isfinite(numbers.min()))
    flat = numbers.reshape(-1)
    return math.isfinite(np.dot(flat, flat))  # a third of the time that the largest and the smallest take


def _refuse_overflow(after: Array, before: Array | Floats, name: str) -> None:
    """Refuse infinities and NaN where there were numbers."""
    if _all_finite(after):
        return
    with np.errstate(all="ignore"):
        lost = ~np.isfinite(after.astype(np.float64)) & np.isfinite(np.asarray(before, np.float64))
    if lost.any():
        raise BnfoldError(f"{name}: {int(lost.sum())} numbers would overflow {after.dtype.name}; nothing was written")
