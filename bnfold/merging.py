"""Parallel linear branches are one convolution (RepVGG, MobileOne, ACNet and the like), wherever the graph shows them.

Convolutions of one x are linear in their kernels: with their taps at the same places,

    c_1 * (K_1 x + b_1) + c_2 * (K_2 x + b_2) = (c_1 K_1 + c_2 K_2) x + (c_1 b_1 + c_2 b_2)

x itself is a convolution whose 1x1 kernel is the identity, an affine of x one whose kernel is its scale; an affine
behind a branch, or behind the sum, scales rows and moves biases. Kernels of different sizes are padded with zeros.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.branches import Branch, affine_behind, affines_of, branches_of, may_merge
from bnfold.graph import Graph, Node
from bnfold.plan import Merge, Plan, Remove
from bnfold.record import record
from bnfold.relation import Site
from bnfold.rules.affine import affine_of
from bnfold.why import Why


def merges_after(graph: Graph, plan: Plan, spared: Collection[str] = ()) -> tuple[Merge, ...]:
    """Find the merges that are possible after a fold.

    graph: the one that the plan was made for. spared: affines that no merge may take in.
    """
    if not any(isinstance(node.op, ops.Sum) and may_merge(graph, node) for node in graph.nodes):
        return ()
    from bnfold.adapters.memory import written  # which carries out merges itself

    structure = [edit for edit in plan.edits if isinstance(edit, Remove | Merge)]  # what else changes are numbers
    folded = written(graph, Plan((), tuple(structure)), is_exact=True)
    kept = tuple(
        replace(node, limits={**node.limits, "remove": Why.SKIPPED}) if node.name in spared else node
        for node in folded.nodes
    )
    return find(replace(folded, nodes=kept))


def find(graph: Graph) -> tuple[Merge, ...]:
    """Find the Sums whose operands are all linear in one x, with strides, dilations, groups and padding that agree.

    Merging never adds multiply-adds. The outermost Sum is taken where several lie within each other.
    """
    found: list[Merge] = []
    taken: set[str] = set()
    for node in reversed(graph.nodes):
        if isinstance(node.op, ops.Sum) and node.name not in taken:
            merge = _merge(graph, node)
            if merge is not None:
                found.append(merge)
                taken.update(merge.nodes)
    return tuple(reversed(found))


def fused(graph: Graph, merge: Merge) -> tuple[Floats, Floats]:
    """Give weight (out, in / groups, *kernel) and bias (out,), both float64, of the Conv that a merge puts in."""
    node = graph.by_name[merge.node]
    branches, _ = branches_of(graph, node)
    layout = _layout(graph, branches)
    assert layout is not None, f"{merge.node}: not the graph that the merge was found in"
    weight = np.zeros((layout.channels, layout.channels_in // merge.op.groups, *layout.kernel))
    bias = np.zeros(layout.channels)
    for branch, at in zip(branches, layout.places, strict=True):
        kernel, shift = _linear(graph, branch, layout, merge.op.groups)
        window = tuple(slice(start, start + size) for start, size in zip(at, kernel.shape[2:], strict=True))
        weight[(slice(None), slice(None), *window)] += branch.coefficient * kernel
        bias += branch.coefficient * shift
    for name in merge.after:
        affine = affine_of(Site(graph.by_name[name], graph))
        weight *= affine.scale.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = affine.scale * bias + affine.shift
    return weight, bias


def fused_after(graph: Graph, plan: Plan, merge: Merge) -> tuple[Floats, Floats]:
    """Give what `fused` gives behind the plan's other edits, in float64; of half precision the weight is rounded.

    graph: the one before the plan.
    """
    from bnfold.adapters.memory import written
    from bnfold.balancing import merged

    edits = [edit for edit in plan.edits if isinstance(edit, Remove) or edit.node in merge.nodes]
    result = written(graph, Plan((), tuple(edits)), is_exact=True)
    weight, bias = (result.constants[name].load() for name in result.by_name[merge.node].inputs[1:3])
    return merged(graph, plan, merge, weight, bias), bias


def _merge(graph: Graph, node: Node) -> Merge | None:
    branches, inner = branches_of(graph, node)
    layout = _layout(graph, branches) if len(branches) > 1 else None
    if layout is None or layout.cost > sum(layout.costs):
        return None
    names = tuple(tuple(part.name for part in branch.nodes) for branch in branches)
    after = affine_behind(graph, node)
    return Merge(node.name, branches[0].x, layout.op, names, (after.name,) if after else (), inner)


@record
class _Layout:
    """The merged operator. places: where each branch's kernel starts in it. cost: taps by output channel."""

    op: ops.Conv
    kernel: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]
    channels_in: int
    channels: int
    cost: int
    costs: tuple[int, ...]


@record
class _Taps:
    """Where a branch reads along one axis: `size` taps from -low on, `dilation` apart; rest: low + high - reach."""

    size: int
    low: int
    high: int
    stride: int
    dilation: int

    @property
    def rest(self) -> int:
        """What the output is longer than the input, at stride 1."""
        return self.low + self.high - self.dilation * (self.size - 1)


def _layout(graph: Graph, branches: Sequence[Branch]) -> _Layout | None:
    """Put the kernels of all branches into one; None where they don't agree."""
    convs = [branch.conv for branch in branches if branch.conv is not None]
    found = [node.op for node in convs if isinstance(node.op, ops.Conv)]
    if not found or any(branch.x != branches[0].x for branch in branches):
        return None
    groups, modes = {op.groups for op in found}, {op.pad_mode for op in found if _is_padded(op)}
    weights = {graph.constants[node.inputs[1]].shape for node in convs}
    channels = {(shape[0], shape[1] * found[0].groups) for shape in weights}
    if len(groups) != 1 or len(modes) > 1 or len(channels) != 1 or not _same_types(graph, branches):
        return None
    ((outputs, inputs),) = channels
    if len(convs) < len(branches) and inputs != outputs:
        return None
    spatial = len(found[0].strides)
    axes = [_along(graph, branches, axis) for axis in range(spatial)]
    known = [axis for axis in axes if axis is not None]
    if len(known) != spatial:
        return None
    kernel = tuple(size for size, _, _ in known)
    op = ops.Conv(
        found[0].strides,
        tuple(taps.dilation for _, taps, _ in known),
        tuple((taps.low, taps.high) for _, taps, _ in known),
        found[0].groups,
        next(iter(modes), "zeros"),
    )
    places = tuple(zip(*(starts for _, _, starts in known), strict=True))
    inside = inputs // found[0].groups
    costs = tuple(inside * int(np.prod(_kernel(graph, branch, spatial))) if branch.conv else 1 for branch in branches)
    return _Layout(op, kernel, places, inputs, outputs, inside * int(np.prod(kernel)), costs)


def _is_padded(op: ops.Conv) -> bool:
    return any(low or high for low, high in op.pads or ())


def _same_types(graph: Graph, branches: Sequence[Branch]) -> bool:
    names = {branches[0].x} | {node.output for branch in branches for node in branch.nodes}
    return len({graph.values[name].dtype for name in names}) == 1


def _kernel(graph: Graph, branch: Branch, spatial: int) -> tuple[int, ...]:
    return (1,) * spatial if branch.conv is None else graph.constants[branch.conv.inputs[1]].shape[2:]


def _along(graph: Graph, branches: Sequence[Branch], axis: int) -> tuple[int, _Taps, tuple[int, ...]] | None:
    """Join the taps along one spatial axis: (size, taps, where each branch starts); a single tap has no dilation."""
    taps = [_taps(graph, branch, axis) for branch in branches]
    dilations = {one.dilation for one in taps if one.size > 1} or {1}
    if len(dilations) != 1 or len({one.stride for one in taps}) != 1 or len({one.rest for one in taps}) != 1:
        return None
    (dilation,) = dilations
    low = max(one.low for one in taps)
    if any((low - one.low) % dilation for one in taps):
        return None
    starts = tuple((low - one.low) // dilation for one in taps)
    size = max(start + one.size for start, one in zip(starts, taps, strict=True))
    high = taps[0].rest - low + dilation * (size - 1)
    return size, _Taps(size, low, high, taps[0].stride, dilation), starts


def _taps(graph: Graph, branch: Branch, axis: int) -> _Taps:
    if branch.conv is None:
        return _Taps(1, 0, 0, 1, 1)
    op = branch.conv.op
    assert isinstance(op, ops.Conv)
    assert op.pads is not None
    size = graph.constants[branch.conv.inputs[1]].shape[2 + axis]
    return _Taps(size, *op.pads[axis], op.strides[axis], op.dilations[axis])


def _linear(graph: Graph, branch: Branch, layout: _Layout, groups: int) -> tuple[Floats, Floats]:
    """Give a branch's kernel (out, in / groups, *its size) and bias (out,), its affine taken in."""
    outputs, spatial = layout.channels, len(layout.kernel)
    weight = np.zeros((outputs, layout.channels_in // groups, *(1,) * spatial))
    bias = np.zeros(outputs)
    if branch.conv is None:
        every = np.arange(outputs)
        weight.reshape(outputs, -1)[every, every % weight.shape[1]] = 1.0
    else:
        weight = graph.constants[branch.conv.inputs[1]].load()
        bias = graph.constants[branch.conv.inputs[2]].load() if any(branch.conv.inputs[2:]) else bias
    for affine in affines_of(graph, branch):
        weight = weight * affine.scale.reshape(-1, *(1,) * (spatial + 1))
        bias = affine.scale * bias + affine.shift
    return weight, bias
