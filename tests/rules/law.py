"""The joint law of one operator, and a dense solver of its ties that shares no code with the real one.

    op(frame_x(x'), ...) == frame_y(op'(x', ...))        for every x' and every choice of frames that satisfies the ties

A case is one node in a graph of its own. Its frames are drawn from the null space of the rows that its ties stand for,
so that every choice which the rule allows can come up, over all operands jointly.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.affine import Affine
from bnfold.graph import Constant, Graph, Node, Value
from bnfold.plan import Plan, ReplaceByClip, SetBounds
from bnfold.relation import Carried, Contracted, Multiplied, Pinned, Site, Summed, Tie
from bnfold.rules import relation, rewritten
from bnfold.why import Why
from tests.oracle import Array, run, run_graph

Shape = tuple[int, ...]


class Aspect(Enum):
    SCALE = "scale"
    SIGN = "sign"
    SHIFT = "shift"


SCALE, SIGN, SHIFT = Aspect


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


Axes = Mapping[str, int]
Unknown = tuple[str, int]  # a value and a channel


@dataclass(frozen=True)
class Row:
    """sum of coefficient * unknown == 0, in one of the three systems."""

    aspect: Aspect
    terms: Mapping[Unknown, float]
    why: Why | None = None

    def holds(self, frames: Mapping[str, Affine]) -> bool:
        total = sum(times * self._of(frames[name], c) for (name, c), times in self.terms.items())
        return bool(abs(total % 2 if self.aspect is SIGN else total) < 1e-9)

    def _of(self, frame: Affine, channel: int) -> float:
        match self.aspect:
            case Aspect.SCALE:
                return float(np.log(np.abs(frame.scale[channel])))
            case Aspect.SIGN:
                return float(frame.scale[channel] < 0)
            case Aspect.SHIFT:
                return float(frame.shift[channel])


def rows(site: Site, axes: Axes) -> Iterator[Row]:
    for tie in relation(site):
        yield from _tied(tie, site, axes)


def _tied(tie: Tie, site: Site, axes: Axes) -> Iterator[Row]:
    match tie:
        case Pinned(values, why):
            for name in values:
                yield from _held(site, axes, name, why)
        case Carried():
            yield from _carried(tie, site, axes)
        case Contracted():
            yield from _contracted(tie, site, axes)
        case Summed(terms, target):
            for c in range(_channels(site, axes, target)):
                for name, _ in terms:
                    yield from _equal(Row(SCALE, {(name, c): 1, (target, c): -1}, Why.SUM))
                yield Row(SHIFT, {(target, c): 1} | {(name, c): -times for name, times in terms})
        case Multiplied(factors, target):
            for c in range(_channels(site, axes, target)):
                terms = {(name, c): float(factors.count(name)) for name in factors} | {(target, c): -1.0}
                yield from _equal(Row(SCALE, terms))
            for name in (*factors, target):
                yield from _held(site, axes, name, Why.GATE, SHIFT)


def _carried(tie: Carried, site: Site, axes: Axes) -> Iterator[Row]:
    image = tie.view.image(axes[tie.source], _channels(site, axes, tie.source))
    if image is None or image.axis != axes[tie.target]:
        yield from _held(site, axes, tie.source, tie.lost)
        yield from _held(site, axes, tie.target, tie.lost)
        return
    for s, t in zip(image.source.tolist(), image.target.tolist(), strict=True):
        x, y = (tie.source, s), (tie.target, t)
        yield from _equal(Row(SCALE, {x: 1, y: -1}))
        yield Row(SHIFT, {x: tie.times, y: -1})
        if tie.positive:
            yield Row(SIGN, {x: 1}, tie.positive)
        if tie.still:
            yield Row(SHIFT, {x: 1}, tie.still)
        if tie.uniform and s:
            yield from _equal(Row(SCALE, {x: 1, (tie.source, 0): -1}, tie.uniform))
            yield Row(SHIFT, {x: 1, (tie.source, 0): -1}, tie.uniform)


def _contracted(tie: Contracted, site: Site, axes: Axes) -> Iterator[Row]:
    passes = (axes[tie.source], axes[tie.target]) in tie.passes and not tie.bias
    if passes:
        for c in range(_channels(site, axes, tie.source)):
            yield from _equal(Row(SCALE, {(tie.source, c): 1, (tie.target, c): -1}))
    for name, free in ((tie.source, tie.source_axis), (tie.target, tie.target_axis)):
        if axes[name] != free:
            for aspect in (SHIFT,) if passes else Aspect:
                yield from _held(site, axes, name, Why.AXIS, aspect)
        elif tie.still and name == tie.source:
            yield from _held(site, axes, name, tie.still, SHIFT)


def _held(site: Site, axes: Axes, name: str, why: Why, *aspects: Aspect) -> Iterator[Row]:
    for c in range(_channels(site, axes, name)):
        for aspect in aspects or Aspect:
            yield Row(aspect, {(name, c): 1}, why)


def _equal(row: Row) -> Iterator[Row]:
    yield row
    yield replace(row, aspect=SIGN)


def _channels(site: Site, axes: Axes, name: str) -> int:
    size = site.shape(name)[axes[name]] if name in axes else 0
    assert isinstance(size, int)
    return size


@dataclass(frozen=True)
class Freedom:
    """All frames that satisfy the ties: the null space of the rows of each aspect, (solutions, unknowns)."""

    unknowns: tuple[Unknown, ...]
    basis: Mapping[Aspect, Array]

    def of(self, name: str, aspect: Aspect) -> int:
        """Count the degrees of freedom that the channels of one value have."""
        mine = [k for k, (value, _) in enumerate(self.unknowns) if value == name]
        part = self.basis[aspect][:, mine]
        return len(part) - len(_null_space_mod_2(part.T)) if aspect is SIGN else int(np.linalg.matrix_rank(part))

    def draw(self, axes: Axes, rng: np.random.Generator, spread: float) -> dict[str, Affine]:
        """Draw frames: scales of both signs, which vary by e^spread, and shifts."""
        log, sign, shift = (rng.normal(size=len(self.basis[aspect])) @ self.basis[aspect] for aspect in Aspect)
        sign = np.rint(rng.integers(0, 2, len(self.basis[SIGN])) @ self.basis[SIGN]) % 2
        scale = np.exp(spread * log) * (1 - 2 * sign)
        frames = {}
        for name, axis in axes.items():
            mine = [k for k, (value, _) in enumerate(self.unknowns) if value == name]
            frames[name] = Affine(axis, scale[mine], 3 * shift[mine])
        return frames


def freedom(site: Site, axes: Axes, found: Iterable[Row] | None = None) -> Freedom:
    """Solve the rows of the ties, or those that are given."""
    unknowns = tuple((name, c) for name in axes for c in range(_channels(site, axes, name)))
    place = {unknown: k for k, unknown in enumerate(unknowns)}
    matrices = {aspect: [np.zeros(len(unknowns))] for aspect in Aspect}
    for row in rows(site, axes) if found is None else found:
        matrices[row.aspect].append(line := np.zeros(len(unknowns)))
        for unknown, coefficient in row.terms.items():
            line[place[unknown]] += coefficient
    basis = {aspect: _null_space(np.array(matrices[aspect])) for aspect in (SCALE, SHIFT)}
    return Freedom(unknowns, basis | {SIGN: _null_space_mod_2(np.array(matrices[SIGN]))})


def _null_space(matrix: Array) -> Array:
    """Give an orthonormal basis, cleaned of rounding, so that what is held is held exactly."""
    _, values, right = np.linalg.svd(matrix)
    rank = int(np.sum(values > 1e-9))
    basis = right[rank:]
    return np.where(np.abs(basis) < 1e-12, 0, basis)


def _null_space_mod_2(matrix: Array) -> Array:
    work = np.rint(matrix).astype(int) % 2
    pivots: list[int] = []
    for column in range(work.shape[1]):
        below = [k for k in range(len(pivots), len(work)) if work[k, column]]
        if not below:
            continue
        work[[len(pivots), below[0]]] = work[[below[0], len(pivots)]]
        others = [k for k in range(len(work)) if k != len(pivots) and work[k, column]]
        work[others] = (work[others] + work[len(pivots)]) % 2
        pivots.append(column)
    solutions = np.zeros((work.shape[1] - len(pivots), work.shape[1]))
    for solution, column in zip(solutions, (k for k in range(work.shape[1]) if k not in pivots), strict=True):
        solution[column] = 1
        for row, pivot in enumerate(pivots):
            solution[pivot] = work[row, column]
    return solutions


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
                image = view.image(axes[source], _channels(site, axes, source))
                axes.setdefault(target, image.axis if image else min(axis, len(site.shape(target)) - 1))
            case Contracted():
                axes[tie.source] = axis
                axes[tie.target] = dict(tie.passes).get(axis, tie.target_axis)
            case Summed() | Multiplied():
                operands = [name for name, _ in tie.terms] if isinstance(tie, Summed) else tie.factors
                axes |= dict.fromkeys((*operands, tie.target), axis)
            case _:
                axes |= {tie.source: tie.axis, tie.target: tie.axis}
    return axes


def seeded(test: Callable[..., None]) -> Callable[..., None]:
    """Give the test 25 seeds, always the same."""
    return settings(max_examples=25, deadline=None, derandomize=True)(given(seed=st.integers(0, 2**32 - 1))(test))


def assert_law(case: Case, axis: int, free: str, seed: int) -> None:
    """What `free` names gets through for every channel, all else not at all, and the law holds.

    free: words such as `scale` (of the tensor with the fewest channels), `one scale` (the same for all channels, so
    one degree of freedom), or `x0.scale` (of that tensor; then those of all tensors are told).
    """
    site = case.site
    axes = axes_of(site, axis)
    found = freedom(site, axes)
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
    assert freedom(site, axes).of(next(iter(axes)), aspect) < _channels(site, axes, next(iter(axes)))
    assert {row.why for row in rows(site, axes) if row.aspect is aspect and row.why is not None} == {why}


def assert_no_more(case: Case, axis: int, seed: int) -> None:
    """Every demand is needed: without it frames get through that break the law."""
    site = case.site
    axes = axes_of(site, axis)
    every = list(rows(site, axes))
    rng = np.random.default_rng(seed)
    for aspect, why in dict.fromkeys((row.aspect, row.why) for row in every):
        dropped = [row for row in every if (row.aspect, row.why) == (aspect, why)]
        wider = freedom(site, axes, [row for row in every if row not in dropped])
        if len(wider.basis[aspect]) == len(freedom(site, axes).basis[aspect]):
            continue  # others demand the same
        draws = (wider.draw(axes, rng, 0.5) for _ in range(50))
        frames = next(frames for frames in draws if not all(row.holds(frames) for row in dropped))
        assert error(site, frames, rng) > 1e-9, f"the {aspect.value} is held in vain: {why}"
