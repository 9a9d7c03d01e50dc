"""The joint law of one operator, and what a rule must show of it.

    op(frame_x(x'), ...) == frame_y(op'(x', ...))        for every x' and every choice of frames that satisfies the ties

A case is one node in a graph of its own. Its frames are drawn from the null space of the rows that its ties stand for,
so that every choice which the rule allows can come up, over all operands jointly.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.affine import Affine
from bnfold.graph import Constant, Graph, Node, Value
from bnfold.plan import Plan, ReplaceByClip, SetBounds
from bnfold.relation import Absorbed, Carried, Contracted, Multiplied, Pinned, Site, Summed
from bnfold.rules import relation, rewritten
from bnfold.views import View
from bnfold.why import Why
from tests.oracle import Array, run, run_graph
from tests.rules.dense import Aspect, Axes, Freedom, Row, Rows, freedom

Shape = tuple[int, ...]
Table = Sequence[object]  # of pytest.param


@dataclass(frozen=True, eq=False)
class Case:
    """A node. operands: a shape is a value, an array a constant, None absent, a name an operand again (x0, x1...)."""

    op: ops.Op
    operands: tuple[Shape | Array | str | None, ...]
    outputs: tuple[Shape, ...] = ()  # where they don't follow from the operands
    relaxed: bool = False
    tensors: bool = False
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.op}"

    @property
    def site(self) -> Site:
        names = tuple(
            "" if operand is None else operand if isinstance(operand, str) else f"x{k}"
            for k, operand in enumerate(self.operands)
        )
        shapes = {name: x for name, x in zip(names, self.operands, strict=True) if isinstance(x, tuple)}
        arrays = {name: x for name, x in zip(names, self.operands, strict=True) if isinstance(x, np.ndarray)}
        outputs = self.outputs or self._shapes(names, shapes, arrays)
        results = tuple(f"y{k}" for k in range(len(outputs)))
        values = shapes | dict(zip(results, outputs, strict=True))
        graph = Graph(
            tuple(shapes),
            results,
            (node := Node("node", self.op, names, results),),
            {name: Value(name, shape, self.dtypes.get(name, "float64")) for name, shape in values.items()},
            {name: Constant(name, x.shape, "float64", lambda x=x: x) for name, x in arrays.items()},
        )
        return Site(node, graph, self.relaxed, self.tensors)

    def _shapes(self, names: tuple[str, ...], shapes: Mapping[str, Shape], arrays: Mapping[str, Array]) -> list[Shape]:
        known: dict[str, Array | None] = {name: np.zeros(shape) for name, shape in shapes.items()} | {
            "": None,
            **arrays,
        }
        elementwise = np.broadcast_shapes(*shapes.values()) if isinstance(self.op, (ops.Sum, ops.Product)) else ()
        return [y.shape for y in run(self.op, [known[name] for name in names], elementwise)]


def rows(site: Site, axes: Axes) -> list[Row]:
    return list(Rows(site, axes).of(relation(site)))


def freedom_of(site: Site, axes: Axes, found: Iterable[Row] | None = None) -> Freedom:
    """Solve the rows of the ties, or those that are given."""
    unknowns = [(name, c) for name in axes for c in range(_channels(site, axes, name))]
    return freedom(unknowns, rows(site, axes) if found is None else found)


def _channels(site: Site, axes: Axes, name: str) -> int:
    return Rows(site, axes).channels(name)


def error(site: Site, frames: Mapping[str, Affine], rng: np.random.Generator) -> float:
    """Compare the two sides of the law on random x', zeros among them; relative to the numbers that add up to y."""
    given = {name: _sample(site, name, rng) for name in site.graph.inputs}
    framed = {name: frames[name](x) if name in frames else x for name, x in given.items()}
    edits = rewritten(site.node.op, site, frames)
    allowed = ((SetBounds, site.relaxed), (ReplaceByClip, site.relaxed and site.tensors))
    edits = tuple(edit for edit in edits if all(may or not isinstance(edit, kind) for kind, may in allowed))
    left = run_graph(site.graph, framed)
    right = run_graph(written(site.graph, Plan((), edits)), given)
    worst = 0.0
    for name in site.node.outputs:
        frame = frames.get(name)
        back = frame(right[name]) if frame else right[name]
        worst = max(worst, _distance(left[name], back, 0 if frame is None else np.max(np.abs(frame.shift))))
    return worst


def _distance(left: Array, right: Array, shift: float) -> float:
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite]):
        return np.inf
    size = np.max(np.abs(left[finite]), initial=1) + shift
    return float(np.max(np.abs(left[finite] - right[finite]), initial=0) / size)


def _sample(site: Site, name: str, rng: np.random.Generator) -> Array:
    x = 4 * rng.normal(size=site.shape(name))
    return np.where(rng.random(x.shape) < 0.1, 0.0, x)


def axes_of(site: Site, axis: int) -> Axes:
    """Say where every tensor has its channels, when the first one has them on `axis`."""
    axes: dict[str, int] = {}
    for tie in relation(site):
        match tie:
            case Pinned(values):
                axes |= {name: axes.get(name, min(axis, len(site.shape(name)) - 1)) for name in values}
            case Carried(source, target, view):
                axes[source] = min(axis, len(site.shape(source)) - 1)
                axes.setdefault(target, _image_axis(site, view, target, axes[source], _channels(site, axes, source)))
            case Contracted():
                axes[tie.source] = axis
                axes[tie.target] = dict(tie.passes).get(axis, tie.target_axis)
            case Absorbed():
                axes[tie.value] = min(axis, len(site.shape(tie.value)) - 1)
            case Summed() | Multiplied():
                operands = [name for name, _ in tie.terms] if isinstance(tie, Summed) else tie.factors
                axes |= dict.fromkeys((*operands, tie.target), axis)
            case _:
                axes |= {tie.source: tie.axis, tie.target: tie.axis}
    return axes


def _image_axis(site: Site, view: View, target: str, axis: int, channels: int) -> int:
    """Where the view puts the axis, or whence it has it; any axis where that is nowhere."""
    image = view.image(axis, channels)
    if image is not None:
        return image.axis
    shape, back = site.shape(target), view.inverse()
    for candidate, size in enumerate(shape):
        found = back.image(candidate, size) if back and isinstance(size, int) else None
        if found is not None and found.axis == axis:
            return candidate
    return min(axis, len(shape) - 1)


def seeded(test: Callable[..., None]) -> Callable[..., None]:
    """Give the test 25 seeds, always the same."""
    return settings(max_examples=25, deadline=None, derandomize=True)(given(seed=st.integers(0, 2**32 - 1))(test))


def law_tests(holds: Table, stops: Table) -> tuple[Callable[..., None], ...]:
    """Make a family's three tests of its tables: the law holds, it frees all that it could, and what it stops."""

    @pytest.mark.parametrize(("case", "axis", "free"), holds)
    @seeded
    def the_law(case: Case, axis: int, free: str, seed: int) -> None:
        assert_law(case, axis, free, seed)

    @pytest.mark.parametrize(("case", "axis", "free"), holds)
    def nothing_is_held_in_vain(case: Case, axis: int, free: str) -> None:
        assert_no_more(case, axis, seed=0)

    @pytest.mark.parametrize(("case", "axis", "aspect", "why"), stops)
    def what_stops(case: Case, axis: int, aspect: Aspect, why: Why) -> None:
        assert_stops(case, axis, aspect, why)

    return the_law, nothing_is_held_in_vain, what_stops


def assert_law(case: Case, axis: int, free: str, seed: int) -> None:
    """What `free` names gets through for every channel, all else not at all, and the law holds.

    free: words such as `scale` (of the tensor with the fewest channels), `one scale` (the same for all channels, so
    one degree of freedom), or `x0.scale` (of that tensor; then those of all tensors are told).
    """
    site = case.site
    axes = axes_of(site, axis)
    found = freedom_of(site, axes)
    least = min(axes, key=lambda name: _channels(site, axes, name))
    for name in axes if "." in free else (least,):
        prefix = f"{name}." if "." in free else ""
        for aspect in Aspect:
            wanted = _channels(site, axes, name) if prefix + aspect.value in free.split() else 0
            assert found.of(name, aspect) == min(wanted, 1 if f"one {aspect.value}" in free else wanted), (name, aspect)
    rng = np.random.default_rng(seed)
    for spread in (0.5, 4.0):
        assert error(site, found.draw(axes, rng, spread), rng) < 1e-9


def assert_stops(case: Case, axis: int, aspect: Aspect, why: Why) -> None:
    """The aspect of the first tensor's frame is held, for this reason and no other."""
    site = case.site
    axes = axes_of(site, axis)
    assert freedom_of(site, axes).of(next(iter(axes)), aspect) < _channels(site, axes, next(iter(axes)))
    assert {row.why for row in rows(site, axes) if row.aspect is aspect and row.why is not None} == {why}


def assert_no_more(case: Case, axis: int, seed: int) -> None:
    """Every demand is needed: without it frames get through that break the law."""
    site = case.site
    axes = axes_of(site, axis)
    every = list(rows(site, axes))
    rng = np.random.default_rng(seed)
    for aspect, why in dict.fromkeys((row.aspect, row.why) for row in every):
        dropped = [row for row in every if (row.aspect, row.why) == (aspect, why)]
        wider = freedom_of(site, axes, [row for row in every if row not in dropped])
        if len(wider.basis[aspect]) == len(freedom_of(site, axes).basis[aspect]):
            continue  # others demand the same
        draws = (wider.draw(axes, rng, 0.5) for _ in range(50))
        frames = next(frames for frames in draws if not all(row.holds(frames) for row in dropped))
        assert error(site, frames, rng) > 1e-9, f"the {aspect.value} is held in vain: {why}"
