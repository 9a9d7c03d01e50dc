"""Which folds the stored numbers can't bear: overflow, underflow, and shifts that drown the tensor they move."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Floats, Frames, every, some
from bnfold.batches import in_rows
from bnfold.candidates import Candidate
from bnfold.graph import Constant, Graph, Node
from bnfold.ops import BatchNorm, Bilinear, Parameter, Recurrent
from bnfold.plan import Edit, Reason, Remove, ScaleWeight, SetBias, SetConstants
from bnfold.relation import Contracted, Site
from bnfold.rules.affine import affine_of
from bnfold.rules.linear import contraction, weight_factors
from bnfold.why import Why

# Largest and smallest normal number by stored dtype (IEEE 754; bfloat16 is a truncated float32). Below twice the
# smallest, the spacing of subnormal numbers costs more than the rounding of normal ones.
LIMITS = {
    "float16": (65504.0, 2.0**-14),
    "bfloat16": (3.3895313892515355e38, 2.0**-126),
    "float32": (3.4028234663852886e38, 2.0**-126),
    "float64": (1.7976931348623157e308, 2.0**-1022),
}
HARMLESS = 2.0**24  # factors within this and its inverse can't move a sane float32 weight out of range
DROWNED = 4.0  # deviations that a mean may move away: measured, it costs up to 4 % of a float32 trunk's accuracy
ROUNDED = 1e-6  # deviations: less is no matter of numbers but of how float64 rounds a frame
DEVIATIONS = 8.0  # how far from its mean an activation is expected to stray


def unbearable(graph: Graph, found: Sequence[Candidate], frames: Frames, edits: Sequence[Edit]) -> Iterator[Reason]:
    """Give the linear nodes whose new constants, and the affines whose inputs' frames, would lose the numbers.

    found: those that stay, too: what they tell of their inputs holds all the same.
    """
    harmless = _are_harmless(graph, edits)
    for edit in edits:
        why = None
        if isinstance(edit, (ScaleWeight, SetBias)):
            why = None if harmless else _range_of(graph, graph.by_name[edit.node], edit)
        elif isinstance(edit, SetConstants):
            why = _range_of_constants(graph, graph.by_name[edit.node], edit)
        if why is not None:
            yield Reason(edit.node, why)
    gone = {edit.node for edit in edits if isinstance(edit, Remove)}
    for candidate in _far(graph, found, frames):
        why = _size_of(graph, candidate, frames[candidate.tie.source], gone)
        if why is not None:
            yield Reason(candidate.node.name, why)


def _are_harmless(graph: Graph, edits: Sequence[Edit]) -> bool:
    """Whether the numbers of all linear nodes are too near to 1, or to 0, to be looked at node by node."""
    if any(constant.dtype == "float16" for constant in graph.constants.values()):
        return False
    scaled = (edit for edit in edits if isinstance(edit, ScaleWeight))
    factors = [(factor,) for edit in scaled for factor in (edit.out_factor, edit.in_factor)]
    biases = [(edit.bias.reshape(-1),) for edit in edits if isinstance(edit, SetBias)]
    below = (_below(numbers, HARMLESS) for _, (numbers,) in in_rows(biases))
    return all(_harmless(numbers) for _, (numbers,) in in_rows(factors)) and all(below)


def _far(graph: Graph, found: Sequence[Candidate], frames: Frames) -> Iterator[Candidate]:
    """Give the BatchNorms whose inputs' frames may lose the numbers: all but those far from it, many at once."""
    judged, layers = [], []
    for each in found:
        op, frame = each.node.op, frames.get(each.tie.source)
        if frame is not None and isinstance(op, BatchNorm) and not each.held:
            mean, variance = (graph.constants[name].load() for name in each.node.inputs[3:5])
            judged.append(each)
            layers.append((mean, variance + op.eps, frame.shift))
    for row, (mean, variance, shift) in in_rows(layers):
        far = some(np.abs(mean - shift) > DROWNED * np.sqrt(variance))
        yield from (one for one in judged[row] if far or graph.values[one.tie.source].dtype == "float16")


def _range_of(graph: Graph, node: Node, edit: ScaleWeight | SetBias) -> Why | None:
    linear = contraction(Site(node, graph))
    weight = graph.constants[node.inputs[1] if linear is None else linear.weight]
    largest, smallest = LIMITS.get(weight.dtype, LIMITS["float32"])
    if isinstance(edit, SetBias):
        return Why.OVERFLOW if not _below(edit.bias, largest) else None
    assert linear is not None
    if weight.dtype != "float16" and _harmless(edit.out_factor) and _harmless(edit.in_factor):
        return None
    peak, old_peak = _peaks(linear, weight, edit)
    if not _below(peak, largest):
        return Why.OVERFLOW
    faded = (peak > 0) & (peak < 2 * smallest) & (old_peak >= 2 * smallest)
    return Why.UNDERFLOW if faded.any() else None


def _range_of_constants(graph: Graph, node: Node, edit: SetConstants) -> Why | None:
    """Judge a parameter, or the weights and biases of a layer that is linear at some of its ends; nothing else."""
    if not isinstance(node.op, Parameter | Recurrent | Bilinear):
        return None
    for index, numbers in edit.constants.items():
        constant = graph.constants.get(node.inputs[index] if index < len(node.inputs) else "")
        largest, smallest = LIMITS[graph.values[node.inputs[0]].dtype if constant is None else constant.dtype]
        if not _below(numbers, largest):
            return Why.OVERFLOW
        if constant is not None and _is_weight(node, index):
            peak, old_peak = (np.abs(weight).max(axis=-1) for weight in (numbers, constant.load()))
            if np.any((peak > 0) & (peak < 2 * smallest) & (old_peak >= 2 * smallest)):
                return Why.UNDERFLOW
    return None


def _is_weight(node: Node, index: int) -> bool:
    if isinstance(node.op, Recurrent):
        return index in (weight for weight, _ in node.op.parts)
    return isinstance(node.op, Bilinear)


def _peaks(linear: Contracted, weight: Constant, edit: ScaleWeight) -> tuple[Floats, Floats]:
    """Give the largest number along the weight's output axis, after scaling and before."""
    length = weight.shape[linear.out_axis]
    after, before = np.zeros(length), np.zeros(length)
    others = tuple(axis for axis in range(len(weight.shape)) if axis != linear.out_axis)
    factors = weight_factors(linear, weight.shape, edit.out_factor, edit.in_factor)
    for rows, slab in weight.slabs():
        place = rows if linear.out_axis == 0 else slice(None)
        by_output, by_input = (factor[rows] if factor.shape[0] > 1 else factor for factor in factors)
        for peak, numbers in ((after, slab * by_output * by_input), (before, slab)):
            peak[place] = np.maximum(peak[place], np.abs(numbers).max(axis=others))  # NaN stays
    return after, before


def _below(array: Floats, largest: float) -> bool:
    return every(np.abs(array) <= largest)  # false for NaN


def _harmless(factor: Floats) -> bool:
    size = np.abs(factor)
    return every((size < HARMLESS) & ((size > 1 / HARMLESS) | (size == 0)))


def _size_of(graph: Graph, candidate: Candidate, frame: Affine, gone: Collection[str]) -> Why | None:
    """Judge the frame of a BatchNorm's input by the statistics, which tell how large that tensor is."""
    name = candidate.tie.source
    assert isinstance(candidate.node.op, BatchNorm)
    mean, variance = (graph.constants[constant].load() for constant in candidate.node.inputs[3:5])
    if candidate.node.op.eps == 0 and not some(mean) and every(variance == 1):
        return None  # an affine as a file writes it, whose statistics are nobody's
    if graph.values[name].dtype == "float16" and not _fits_half(frame, mean, variance):
        return Why.OVERFLOW
    moved = np.abs(mean - frame.shift)  # of the new tensor, in the old one's unit: no matter in how many folds it came
    deviation = np.sqrt(variance + candidate.node.op.eps)
    drowned = moved > DROWNED * deviation
    if not some(drowned):
        return None
    known = [_mean_behind(graph, node, mean, gone) for node in graph.readers[name] if node is not candidate.node]
    # Itself, or whoever reads what it gave, can do with what it read.
    known.append(np.maximum(np.abs(mean), _mean_behind(graph, candidate.node, mean, gone)) + DROWNED * deviation)
    further = (moved > usual + ROUNDED * deviation for usual in known)
    return Why.PRECISION if any(some(drowned & one) for one in further) else None


def _mean_behind(graph: Graph, node: Node, mean: Floats, gone: Collection[str]) -> Floats:
    """How far from zero the mean of what a reader uses was, in the unit of its input.

    That is the input itself, but for an affine that is gone (a twin of the one judged): it gave s x + t to its readers.
    """
    if node.name not in gone:
        return np.abs(mean)
    affine = affine_of(Site(node, graph))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(affine.scale != 0, np.abs(mean + affine.shift / affine.scale), np.inf)


def _fits_half(frame: Affine, mean: NDArray[np.float64], variance: NDArray[np.float64]) -> bool:
    """Whether T' = (T - shift) / scale stays a float16 for a T within some deviations of its mean."""
    reach = np.abs(mean - frame.shift) + DEVIATIONS * np.sqrt(variance)
    return _below(reach / np.abs(frame.scale), LIMITS["float16"][0])
