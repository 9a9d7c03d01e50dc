"""What the weights of a plan in half precision are rounded against: their inputs' moments, and what is off before.

One walk along the data. What rounding leaves on average behind one layer (the bias of a layer whose input has no mean
can't be made up for there) runs on through activations, sums and layers to the next weights that are rounded, which
make up for it.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.affine import Affine, Chains, Floats, of_batch_norm, scale_along
from bnfold.estimates import Estimates, made_by, moments, seen
from bnfold.graph import Graph, Node
from bnfold.moments import Moments, in_frame, share
from bnfold.plan import Balance, Edit, Merge, Plan, ScaleWeight, SetBias, SetConstants
from bnfold.relation import Contracted, Site
from bnfold.rounding import HALF, UNIT, faithful, nearest, scaled
from bnfold.rules.affine import BETA, GAMMA, MEAN, SCALE, SHIFT, VARIANCE
from bnfold.rules.linear import channels_of, contraction, scale_weight, weight_times_shift
from bnfold.rules.weights import constant_times_shift

SHORT = 64  # numbers in a row; longer ones make up for all that is off, if it is within their reach:
GAIN = 4.0  # half units; more is no gain, but the estimate of a channel that hardly varies
REACH = 0.2  # of what a row of weights of one size, all of them half a unit off, adds to the mean at most


def with_balance(graph: Graph, frames: Chains, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Tell every edit of a half-precision weight what its node's input is on average, and what is to be made up for.

    A node that gets only a bias gets an edit that leaves its weight as it is, but for that.
    """
    given = {edit.node for edit in edits if isinstance(edit, ScaleWeight)}
    edits = [one for edit in edits for one in _with_weight(graph, edit, given)]
    walk = _Walk(graph, frames, edits)
    if not walk.linear:
        return tuple(edits)
    agreed = {weight: _mean(found) for weight, found in walk.balances().items()}
    told = [_told(edit, walk.linear.get(edit.node), agreed) for edit in edits]
    return tuple(edit for edit in told if not _is_idle(edit))


def merged(graph: Graph, plan: Plan, merge: Merge, weight: Floats, bias: Floats) -> Floats:
    """Round the weight of a Conv that takes the place of branches; as it is where nothing is known, or in wide types.

    graph: the one before the plan. weight: (out, in / groups, *kernel), exact; bias: (out,), exact.
    """
    dtype = graph.values[merge.x].dtype
    x = moments(graph, [merge.x]).get(merge.x) if dtype in HALF else None
    x = in_frame(x, plan.frames.get(merge.x, ())) if x is not None and x.axis == 1 else None
    if x is None or x.channels != weight.shape[1] * merge.op.groups:
        return weight
    linear = Contracted(merge.x, merge.node, "", "", 1, 1, 0, 1, merge.op.groups)
    return faithful(linear, weight, dtype, Balance(*_known(x), np.zeros(x.channels), nearest(bias, dtype) - bias))


class _Walk:
    """The estimates along the data, and what the rounding of each edit adds to them. linear: the edited nodes."""

    def __init__(self, graph: Graph, frames: Chains, edits: Sequence[Edit]) -> None:
        self.graph, self.frames = graph, frames
        self.weights = {edit.node: edit for edit in edits if isinstance(edit, ScaleWeight)}
        self.biases = {edit.node: edit.bias for edit in edits if isinstance(edit, SetBias)}
        self.kept = {edit.node: edit.constants for edit in edits if isinstance(edit, SetConstants)}
        half = ((name, _half(graph, name)) for name in self.weights)
        self.linear = {name: linear for name, linear in half if linear is not None}

    def balances(self) -> dict[str, list[Balance | None]]:
        """Give the balances of each weight, one for every node: calls of one module round it alike."""
        self.estimates, found = Estimates(self.graph, self.linear), dict[str, list[Balance | None]]()
        for node in made_by(self.graph, [linear.target for linear in self.linear.values()]):
            self.estimates.step(node)
            linear = self.linear.get(node.name)
            if linear is not None:
                balance = self._balance(node, linear)
                found.setdefault(linear.weight, []).append(balance)
                self._lean(linear.target, linear.target_axis, *self._left(node, linear, balance))
            elif node.name in self.kept and isinstance(node.op, (ops.BatchNorm, ops.Affine)):
                self._add_rounded(node, self.kept[node.name])
        return found

    def _balance(self, node: Node, linear: Contracted) -> Balance | None:
        weight, edit = self.graph.constants[linear.weight], self.weights[node.name]
        inputs, _ = channels_of(linear, weight.shape)
        x = self.estimates.of_channels(linear.source, linear.source_axis, inputs)
        moved = in_frame(x, self.frames.get(linear.source, ())) if x is not None else None
        if x is None or moved is None or linear.alpha == 0:
            return None
        residue, gain = self._residue(node, linear), np.zeros(inputs)
        if x.is_off:
            gain = np.clip(moved.gain, -GAIN * UNIT[weight.dtype], GAIN * UNIT[weight.dtype])
            at_zero = np.nan_to_num(edit.in_factor * (moved.off - gain * moved.mean))
            residue = residue + edit.out_factor * constant_times_shift(linear, weight, at_zero)
        return Balance(*_known(moved), gain, residue)

    def _residue(self, node: Node, linear: Contracted) -> Floats:
        """What the rounding of the bias adds to the output, in the unit of W x at all taps."""
        _, outputs = channels_of(linear, self.graph.constants[linear.weight].shape)
        bias = self.biases.get(node.name)
        stored = self.graph.constants[linear.bias or linear.weight].dtype
        if bias is None or bias.size != outputs or stored not in HALF or linear.alpha == 0:
            return np.zeros(outputs)
        beta = node.op.beta if isinstance(node.op, ops.Gemm) and linear.bias else 1.0
        flat = bias.reshape(-1)
        residue: Floats = (nearest(flat / beta, stored) * beta - flat) / (linear.alpha * seen(node))
        return residue

    def _left(self, node: Node, linear: Contracted, balance: Balance | None) -> tuple[Floats, Floats]:
        """Compute what stays off in the output: on average, in its old unit, and in proportion to its deviation."""
        _, outputs = channels_of(linear, self.graph.constants[linear.weight].shape)
        unit = scale_along(self.frames.get(linear.target, ()), linear.target_axis, outputs) * linear.alpha * seen(node)
        off, gain = np.zeros(outputs), np.zeros(outputs)
        if balance is None:
            off = unit * self._residue(node, linear)
        elif self._is_left(linear, balance):
            weight, edit = self.graph.constants[linear.weight], self.weights[node.name]
            goal = scale_weight(linear, weight.load(), edit.out_factor, edit.in_factor * (1 - balance.gain))
            error = scaled(linear, weight, replace(edit, balance=balance)) - goal
            off = unit * (weight_times_shift(linear, error, balance.mean) + balance.residue)
            along, variance = (weight_times_shift(linear, one * goal, balance.variance) for one in (error, goal))
            gain = share(along, variance)
        return np.where(np.isfinite(off), off, 0.0), np.where(np.isfinite(gain), gain, 0.0)

    def _is_left(self, linear: Contracted, balance: Balance) -> bool:
        """Whether something may be left: where rows are short, or the mean of what they read is beside the residue."""
        weight = self.graph.constants[linear.weight]
        if len(self.graph.readers[linear.weight]) > 1:  # how it is rounded depends on its other calls
            return False
        size, outputs = math.prod(weight.shape), len(balance.residue)
        y = self.estimates.of_channels(linear.target, linear.target_axis, outputs)
        y = in_frame(y, self.frames.get(linear.target, ())) if y is not None else None
        if size <= SHORT * outputs or y is None:
            return True
        mean, variance = np.square(balance.mean).mean(), balance.variance.mean()
        reach = (REACH * UNIT[weight.dtype]) ** 2 * mean * size / outputs * y.variance
        return bool(np.any(np.square(balance.residue) * variance > reach))

    def _add_rounded(self, node: Node, constants: Mapping[int, Floats]) -> None:
        """Add what the rounding of a kept affine's new constants moves its output by."""
        y, x = self.estimates.found.get(node.output), self.estimates.found.get(node.inputs[0])
        x = in_frame(x, self.frames.get(node.inputs[0], ())) if x is not None else None
        if x is None or y is None or y.channels != x.channels:
            return
        exact = _affine(self.graph, node, constants, lambda numbers, _: numbers)
        kept = _affine(self.graph, node, constants, lambda n, dtype: nearest(n, dtype) if dtype in HALF else n)
        moved = (kept.scale - exact.scale) * x.mean + kept.shift - exact.shift
        added = moved * scale_along(self.frames.get(node.output, ()), y.axis, y.channels)
        gain = y.gain + share(kept.scale - exact.scale, exact.scale)
        self._lean(node.output, y.axis, y.off + np.where(np.isfinite(added), added, 0.0), gain)

    def _lean(self, name: str, axis: int, off: Floats, gain: Floats) -> None:
        one = self.estimates.of_channels(name, axis, len(off))
        if one is not None:
            self.estimates.found[name] = one.leaning(off, gain)


def _affine(
    graph: Graph, node: Node, constants: Mapping[int, Floats], stored: Callable[[Floats, str], Floats]
) -> Affine:
    """Compute what an affine with new constants does, each of them as `stored` makes it."""

    def operand(index: int, absent: float = 0.0) -> Floats:
        name = node.inputs[index] if index < len(node.inputs) else ""
        old = graph.constants.get(name)
        if index in constants:
            return stored(constants[index], graph.values[node.inputs[0]].dtype if old is None else old.dtype)
        return old.load() if old is not None else np.array([absent])

    if isinstance(node.op, ops.BatchNorm):
        scale_and_shift = operand(GAMMA, 1.0), operand(BETA)
        return of_batch_norm(1, *scale_and_shift, operand(MEAN), operand(VARIANCE), node.op.eps)
    return Affine(1, operand(SCALE), operand(SHIFT))


def _with_weight(graph: Graph, edit: Edit, given: Collection[str]) -> Iterator[Edit]:
    """Put a ScaleWeight by 1 before a SetBias that stands alone, where the weight is the node's own."""
    if isinstance(edit, SetBias) and edit.node not in given:
        node, linear = graph.by_name[edit.node], _half(graph, edit.node)
        if linear is not None and not node.unit and "weight" not in node.limits:
            inputs, outputs = channels_of(linear, graph.constants[linear.weight].shape)
            if len(graph.readers[linear.weight]) == 1:
                yield ScaleWeight(edit.node, np.ones(outputs), np.ones(inputs))
    yield edit


def _told(edit: Edit, linear: Contracted | None, agreed: Mapping[str, Balance | None]) -> Edit:
    if isinstance(edit, ScaleWeight) and linear is not None:
        return replace(edit, balance=agreed[linear.weight])
    return edit


def _is_idle(edit: Edit) -> bool:
    if not isinstance(edit, ScaleWeight) or edit.balance is not None:
        return False
    return bool(np.all(edit.out_factor == 1) and np.all(edit.in_factor == 1))


def _half(graph: Graph, name: str) -> Contracted | None:
    """Read a node as linear with a weight in half precision."""
    linear = contraction(Site(graph.by_name[name], graph))
    return linear if linear is not None and graph.constants[linear.weight].dtype in HALF else None


def _known(x: Moments) -> tuple[Floats, Floats]:
    """Give mean and variance, 0 and 1 where they aren't known."""
    mean, variance = x.mean, x.variance
    known = np.isfinite(mean) & np.isfinite(variance)
    return np.where(known, mean, 0.0), np.where(known, variance, 1.0)


def _mean(found: Sequence[Balance | None]) -> Balance | None:
    """Average over the calls of a weight; None where one of them is unknown or of another size."""
    known = [one for one in found if one is not None]
    if len(known) != len(found) or len({(one.mean.shape, one.residue.shape) for one in known}) != 1:
        return None
    return Balance(
        np.mean([one.mean for one in known], axis=0),
        np.mean([one.variance for one in known], axis=0),
        np.mean([one.gain for one in known], axis=0),
        np.mean([one.residue for one in known], axis=0),
    )
