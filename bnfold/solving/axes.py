"""Along which axis each tensor's frame varies: the affines' own axes, followed through the relations."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from bnfold.graph import CHANNELS, Graph
from bnfold.ops import Einsum, MatMul
from bnfold.relation import Carried, Contracted, Mapped, Multiplied, Summed, Tie
from bnfold.rules.base import tied
from bnfold.views import Aligned, Image, View
from bnfold.why import Why

Ties = Mapping[str, Sequence[Tie]]  # by node name
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


def frame_axes(graph: Graph, ties: Ties) -> dict[str, int]:
    """Give the axis of every value that an affine's frame reaches; the first to reach a value claims it."""
    by_value: dict[str, list[tuple[Tie, tuple[str, ...]]]] = {}
    claims: deque[tuple[str, int]] = deque()
    for node in graph.nodes:
        for tie in ties[node.name]:
            names = tied(tie)
            for name in names:
                by_value.setdefault(name, []).append((tie, names))
            if isinstance(tie, Mapped):
                claims += [(tie.source, tie.axis), (tie.target, tie.axis)]
    axes: dict[str, int] = {}
    while claims:
        while claims:
            name, axis = claims.popleft()
            if name in axes or not may_have_frame(graph, name, axis):
                continue
            axes[name] = axis
            for tie, names in by_value.get(name, ()):
                if not all(map(axes.__contains__, names)):
                    claims.extend(neighbours(graph, tie, name, axis))
        claims.extend(_behind_biasless(graph, ties, axes))
    return axes


def bias_is_operator(graph: Graph, node: str, tie: Contracted) -> bool:
    """Whether a bias costs an Add: an Einsum takes none, and a MatMul only of matrices, which makes it a Gemm."""
    op = graph.by_name[node].op
    if tie.bias or not isinstance(op, MatMul):
        return not tie.bias and isinstance(op, Einsum)
    return any(len(graph.shape(end) or ()) != 2 for end in (tie.source, tie.target))


def lacks_bias(graph: Graph, node: str, tie: Contracted) -> bool:
    """Whether a linear operator has no bias, and can't have one for nothing."""
    bare = not tie.bias and graph.by_name[node].limits.get("bias") is Why.NO_BIAS
    return bare or bias_is_operator(graph, node, tie)


def _behind_biasless(graph: Graph, ties: Ties, axes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Give the outputs of operators without a bias whose input has a frame: what is behind may take a shift up."""
    for node, node_ties in ties.items():
        for tie in node_ties:
            if not isinstance(tie, Contracted) or axes.get(tie.source) != tie.source_axis or tie.target in axes:
                continue
            if may_have_frame(graph, tie.target, tie.target_axis) and lacks_bias(graph, node, tie):
                yield tie.target, tie.target_axis


def may_have_frame(graph: Graph, name: str, axis: int) -> bool:
    """Whether the value is a float tensor with a known number of channels on the axis, `CHANNELS` at most."""
    value = graph.values.get(name)
    if value is None or value.shape is None or value.dtype not in FLOATS:
        return False
    size = value.shape[axis] if axis < len(value.shape) else None
    return isinstance(size, int) and size <= CHANNELS


def channels(graph: Graph, name: str, axis: int) -> int:
    """Give the number of channels; `may_have_frame` has been asked before."""
    shape = graph.values[name].shape
    assert shape is not None
    size = shape[axis]
    assert isinstance(size, int)
    return size


def image_of(graph: Graph, view: View, name: str, axis: int) -> Image | None:
    """Give where the channels of a value are in another; None where there aren't any."""
    return view.image(axis, channels(graph, name, axis)) if may_have_frame(graph, name, axis) else None


def aligned(graph: Graph, name: str, target: str) -> Aligned:
    """View an operand of an elementwise operator in its result."""
    source_shape, target_shape = graph.values[name].shape, graph.values[target].shape
    assert source_shape is not None
    assert target_shape is not None
    return Aligned(source_shape, target_shape)


def neighbours(graph: Graph, tie: Tie, name: str, axis: int) -> Iterator[tuple[str, int]]:
    """Follow a value's axis through a tie: the values that have it too, each with its place there."""
    match tie:
        case Mapped():
            yield tie.source, axis
            yield tie.target, axis
        case Carried(source, target, view):
            yield from _follow(graph, view, source, target, name, axis)
        case Summed(terms, target):
            for term, _ in terms:
                yield from _follow(graph, aligned(graph, term, target), term, target, name, axis)
        case Multiplied(factors, target):
            for factor in factors:
                yield from _follow(graph, aligned(graph, factor, target), factor, target, name, axis)
        case Contracted():
            for before, after in tie.passes:
                if name == tie.source and axis == before:
                    yield tie.target, after
                if name == tie.target and axis == after:
                    yield tie.source, before


def _follow(graph: Graph, view: View, source: str, target: str, name: str, axis: int) -> Iterator[tuple[str, int]]:
    if name == source:
        image = image_of(graph, view, source, axis)
        if image:
            yield target, image.axis
    if name == target:
        for candidate in _likely(axis, len(graph.values[source].shape or ())):
            image = image_of(graph, view, source, candidate)
            if image and image.axis == axis:
                yield source, candidate
                return
        back = view.inverse()
        image = image_of(graph, back, target, axis) if back else None
        if image:
            yield source, image.axis


def _likely(axis: int, rank: int) -> Iterator[int]:
    """Give the axes of a tensor: that of the same number first, then that of channels, then from the last on."""
    first = dict.fromkeys(place for place in (axis, 1) if place < rank)
    yield from first
    yield from (place for place in reversed(range(rank)) if place not in first)
