"""The reference's run as a candidate is held to: its values, the forms on each of them, and what has which numbers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnfold.checking.audit import ALLOWED, IN_FRAME
from bnfold.checking.linear_forms import Dense, dense, identity
from bnfold.checking.measures import Array
from bnfold.checking.subject import Feed, Subject
from bnfold.checking.torch_follow import dtypes_of, follow
from bnfold.checking.torch_module import to_array
from bnfold.checking.torch_trace import Trace, Traced, Tracer

SAME = 1e-9  # relative: what is computed from the very same numbers in float64
NEAR = 1e-5  # the same behind a layer that could not be compared, with its float32 weights
FRAMED = 1e-6  # the same up to a frame, which float32 weights were measured for
_PROBES = 64
_SNAP = 64 * 2.0**-24  # a frame that the float32 biases of a trunk add up to, and that should be none


@dataclass(frozen=True, eq=False)
class Stands:
    """A value of the reference that one of the candidate stands for: ours = scale * theirs + shift by channel.

    scale, shift: (channels,), along axis 1 of images and the last of anything else; None: the very same numbers. A
    scale is NaN where it is not known. loose: how many times more than by a rounding the frame may be off, where it
    was read off numbers that rounding had moved.
    """

    index: int
    scale: Array | None = None
    shift: Array | None = None
    loose: float = 1.0


class Reference:
    """A reference's trace, indexed."""

    def __init__(self, trace: Trace, outputs: Mapping[str, Array]) -> None:
        self.trace, self.outputs = trace, outputs
        self._by_shape: dict[tuple[int, ...], list[Traced]] = defaultdict(list)
        self._on_root: dict[int, list[Traced]] = defaultdict(list)
        self._affine_in: dict[int, list[Traced]] = defaultdict(list)
        self._dense: dict[int, Dense | None] = {}
        for value in trace.values:
            if value.array.size:
                self._by_shape[_squeezed(value.shape)].append(value)
            if value.form is not None:
                self._on_root[value.form.root].append(value)
            if value.source is not None:
                self._affine_in[value.source[0]].append(value)
        terms = (term for value in trace.values if value.form is not None for term in value.form.terms)
        self.layers = tuple(dict.fromkeys(term.layer for term in terms if term.weight is not None and not term.fixed))

    @classmethod
    def of(cls, subject: Subject, feed: Feed) -> "Reference":
        """Run `subject` on `feed`."""
        tracer = Tracer(dtypes_of(subject), subject.dtype)
        outputs = follow(tracer, subject, feed)
        for tensor in outputs.values():
            value = tracer.value_of(tensor)
            if value is not None:
                value.ends = True
        return cls(tracer.trace, {name: to_array(tensor) for name, tensor in outputs.items()})

    def forms_on(self, root: int) -> list[Traced]:
        """The values that are linear in `root`."""
        return self._on_root[root]

    def dense(self, value: Traced, root: Stands) -> Dense | None:
        """The form of a value as one kernel on what the candidate has for its root."""
        if value.index not in self._dense:
            assert value.form is not None
            self._dense[value.index] = dense(value.form)
        form = self._dense[value.index]
        return None if form is None else _read_as(form, root)

    def affines_on(self, root: Stands) -> Iterator[tuple[Traced, Dense]]:
        """Give the values that affines make of a sum, which has a form of its own, on what the candidate has for it."""
        if self.trace.values[root.index].form is None:
            return  # theirs are among its forms
        for made in self.behind(Stands(root.index, np.ones(1), np.zeros(1))):
            value = self.trace.values[made.index]
            assert value.form is not None
            assert made.scale is not None
            assert made.shift is not None
            channels, rank = len(value.form.bias), len(value.shape) - 2 if value.form.axis == 1 else 0
            form = identity(root.index, value.form.axis, channels, rank, value.index).affine(made.scale, made.shift)
            kernel = dense(form)
            found = None if kernel is None else _read_as(kernel, root)
            if found is not None:
                yield value, found

    def inherited(self, array: Array, stands: Sequence[Stands]) -> list[Stands]:
        """Give the values with these numbers in a frame that what they were computed from has.

        A pooled, flattened value has too few numbers a channel to fit a frame to.
        """
        found = []
        for known in stands:
            if known.scale is None or known.shift is None or array.ndim < 2:
                continue
            axis = _axis(array.ndim)
            if array.shape[axis] != len(known.scale):
                continue
            laid = [1] * array.ndim
            laid[axis] = -1
            mapped = known.scale.reshape(laid) * array + known.shift.reshape(laid)
            found += [
                replace(known, index=value.index)
                for value in self._by_shape[_squeezed(array.shape)]
                if value.shape == array.shape and _distance(value.array, mapped) <= FRAMED
            ]
        return found

    def matches(self, array: Array, bound: float = SAME) -> list[Stands]:
        """Give the values with these numbers, but for `bound` of the largest, the nearest first."""
        same = self._by_shape[_squeezed(array.shape)]
        probes = array.reshape(-1)[:: max(1, array.size // _PROBES)]
        near = []
        for value in same:
            ours = value.array.reshape(-1)[:: max(1, array.size // _PROBES)]
            if _distance(ours, probes) <= 100 * bound:
                distance = _distance(value.array.reshape(-1), array.reshape(-1))
                near.append((distance, value.index))
        near = sorted(pair for pair in near if pair[0] <= bound)
        return [Stands(index) for distance, index in near if distance <= max(10 * near[0][0], SAME)]

    def framed(self, array: Array) -> list[Stands]:
        """Give the values with these numbers up to a frame, the plainest first."""
        same = self._by_shape[_squeezed(array.shape)]
        return sorted((found for value in same if (found := _framed(value, array)) is not None), key=_strangeness)

    def equals(self, index: int, stands: Stands) -> list[Stands]:
        """Give the other values with the numbers of one, in the frame of `stands`."""
        value = self.trace.values[index]
        return [
            replace(stands, index=other.index)
            for other in self._by_shape[_squeezed(value.shape)]
            if other.index != index and other.shape == value.shape and np.array_equal(other.array, value.array)
        ]

    def behind(self, stands: Stands) -> list[Stands]:
        """Give the values that affines make of the one that `stands` names, in terms of the candidate's."""
        found: list[Stands] = []
        for value in self._affine_in[stands.index]:
            assert value.source is not None
            _, scale, shift = value.source
            if stands.scale is not None and stands.shift is not None:
                scale, shift = scale * stands.scale, scale * stands.shift + shift
            if np.all(scale != 0):
                after = Stands(value.index, scale, shift, stands.loose)
                found += [after, *self.behind(after)]
        return found

    def unshifted(self, found: Sequence[Stands]) -> list[Stands]:
        """Put first what needs no frame, then what needs no shift, and take a frame of some roundings for none."""
        exact = []
        for stands in found:
            if stands.scale is None or stands.shift is None:
                exact.append(stands)
                continue
            array = self.trace.values[stands.index].array
            axis = _axis(array.ndim)
            size = np.abs(array).max(tuple(i for i in range(array.ndim) if i != axis), initial=0.0)
            if len(size) == len(stands.shift):
                scale = np.where(np.abs(stands.scale - 1) <= _SNAP, 1.0, stands.scale)
                shift = np.where(np.abs(stands.shift) <= _SNAP * size, 0.0, stands.shift)
                plain = np.all(scale == 1) and not np.any(shift)
                exact.append(Stands(stands.index) if plain else replace(stands, scale=scale, shift=shift))
        return sorted(exact, key=_strangeness)

    def held(self, stands: Stands, shape: tuple[int, ...]) -> Array:
        """What the candidate's value has to be, in its shape."""
        array = self.trace.values[stands.index].array
        if stands.scale is None or stands.shift is None:
            return array.reshape(shape)
        laid = [1] * len(shape)
        laid[_axis(len(shape))] = len(stands.scale)
        return (array.reshape(shape) - stands.shift.reshape(laid)) / stands.scale.reshape(laid)


def frames(stands: Iterable[Stands]) -> list[Stands]:
    """Give one of `stands` for each frame among them.

    In a recurrence every step reads the one before through several values: without this, their number would double.
    """
    found: dict[tuple[bytes, bytes], Stands] = {}
    for known in stands:
        if known.scale is not None and known.shift is not None:
            found.setdefault((known.scale.tobytes(), known.shift.tobytes()), known)
    return list(found.values())


def _read_as(form: Dense, root: Stands) -> Dense | None:
    if root.scale is None:
        return form
    assert root.shift is not None
    inputs = form.weight.shape[1] * form.groups
    return form.with_input(root.scale, root.shift) if len(root.scale) == inputs else None


def _axis(rank: int) -> int:
    return 1 if rank > 2 else rank - 1


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _distance(ours: Array, theirs: Array) -> float:
    with np.errstate(all="ignore"):
        gap = float(np.abs(ours - theirs).max(initial=0.0))
        size = float(np.abs(ours).max(initial=0.0))
    if np.isnan(gap):
        return np.inf
    return gap / size if size else (np.inf if gap else 0.0)


def _framed(value: Traced, array: Array) -> Stands | None:
    """Fit ours = scale * theirs + shift by channel; None where that leaves more than rounding."""
    if value.shape != array.shape or array.ndim < 2:
        return None
    axis = _axis(array.ndim)
    ours, theirs = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (value.array, array))
    if ours.shape[1] < 4:
        return None
    middles = [x.mean(1, keepdims=True) for x in (ours, theirs)]
    centred = ours - middles[0], theirs - middles[1]
    spread = np.square(centred[1]).sum(1)
    flat = (spread == 0) & ~np.any(centred[0], 1)
    with np.errstate(all="ignore"):
        scale = np.where(flat, 1.0, (centred[0] * centred[1]).sum(1) / spread)
    if not np.all(np.isfinite(scale) & (scale != 0)) or np.all(flat):
        return None
    shift = middles[0][:, 0] - scale * middles[1][:, 0]
    size = np.abs(ours).max(1) + np.abs(scale) * np.abs(theirs).max(1)
    if np.any(np.abs(ours - scale[:, None] * theirs - shift[:, None]).max(1) > FRAMED * size):
        return None
    # One number tells no scale: a ReLU that is shut gives 0 in any.
    scale = np.where(flat, np.nan, np.where(np.abs(scale - 1) <= _SNAP, 1.0, scale))
    return Stands(value.index, scale, np.where(np.abs(shift) <= _SNAP * size, 0.0, shift), IN_FRAME / ALLOWED)


def _strangeness(stands: Stands) -> tuple[int, int]:
    if stands.scale is None or stands.shift is None:
        return (-1, 0)
    return int(np.count_nonzero(stands.shift)), int(np.count_nonzero(stands.scale != 1))
