"""What a value is in terms of an earlier one where only linear operators lie between: W * x + b, in float64.

A convolution, a BatchNorm behind it, a sum of parallel branches on one x: each leaves such a form, and whatever a fold
has made of them must be the same one. Nothing here is taken from the fold's own arithmetic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnfold.checking.measures import Array


@dataclass(frozen=True)
class Window:
    """How a kernel is moved over the spatial axes; a matrix product has none of them.

    begins, ends: zeros that stand before and behind; negative where a transposed convolution's output is cut.
    """

    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    begins: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    transposed: bool = False

    @classmethod
    def trivial(cls, rank: int) -> "Window":
        """The window of a 1x1 kernel over `rank` axes."""
        return cls((1,) * rank, (1,) * rank, (0,) * rank, (0,) * rank)

    @property
    def padded(self) -> bool:
        """Whether zeros that the model puts in take part, which no shift of the input reaches."""
        return any(self.begins) or any(self.ends) or self.transposed


@dataclass(frozen=True, eq=False)
class Term:
    """One linear operator and the per-channel scale that it was given since.

    layer: what made it, as the tracer numbers values. weight: (out, in / groups, *kernel); None: the identity on each
    channel. scale: (out,). fixed: no parameter of the model (a pooling).
    """

    layer: int
    weight: Array | None
    groups: int
    window: Window
    scale: Array
    dtype: str = ""
    fixed: bool = False

    def kernel(self) -> Array:
        """The weight with its scale, (out, in / groups, *kernel)."""
        if self.weight is None:
            return self.scale.reshape(-1, 1, *(1,) * len(self.window.stride))
        return self.weight * self.scale.reshape(-1, *(1,) * (self.weight.ndim - 1))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The kernel's spatial sizes."""
        return tuple(self.weight.shape[2:]) if self.weight is not None else (1,) * len(self.window.stride)

    @property
    def in_groups(self) -> int:
        """The number of groups; the identity has one for each channel."""
        return len(self.scale) if self.weight is None else self.groups


@dataclass(frozen=True, eq=False)
class Form:
    """The sum of `terms` on the value `root`, plus `bias` (channels,); `size` is the largest term of each bias.

    axis: the channels' in the value that has this form, 1 or the last. computed: whether the model computes a number of
    it from its parameters, which rounds in a way of its own.
    """

    root: int
    axis: int
    terms: tuple[Term, ...]
    bias: Array
    size: Array
    computed: bool = False

    def affine(self, scale: Array, shift: Array, size: Array | None = None) -> "Form":
        """scale * self + shift, both (channels,) or one number; size: the largest term of the shift."""
        scale, shift = (np.broadcast_to(x, self.bias.shape) for x in (scale, shift))
        terms = tuple(replace(term, scale=term.scale * scale) for term in self.terms)
        sizes = np.maximum(self.size * np.abs(scale), np.abs(shift if size is None else size))
        return replace(self, terms=terms, bias=self.bias * scale + shift, size=sizes)

    def plus(self, other: "Form", sign: float) -> "Form":
        """self + sign * other, both on one root."""
        theirs = other.affine(np.asarray(sign), np.zeros(()))
        size = np.maximum(self.size, theirs.size)
        terms, computed = (*self.terms, *theirs.terms), self.computed or theirs.computed
        return Form(self.root, self.axis, terms, self.bias + theirs.bias, size, computed)

    @property
    def is_affine(self) -> bool:
        """Whether it is the root itself, channel by channel."""
        return len(self.terms) == 1 and self.terms[0].weight is None

    @property
    def layers(self) -> tuple[int, ...]:
        """What made the terms."""
        return tuple(dict.fromkeys(term.layer for term in self.terms))


def identity(root: int, axis: int, channels: int, rank: int, layer: int) -> Form:
    """The form of a value in terms of itself; rank: of its spatial axes."""
    term = Term(layer, None, channels, Window.trivial(rank), np.ones(channels))
    return Form(root, axis, (term,), np.zeros(channels), np.zeros(channels))


@dataclass(frozen=True, eq=False)
class Dense:
    """A form as one kernel. weight, size: (out, in / groups, *kernel); size is each element's largest term."""

    weight: Array
    size: Array
    bias: Array
    bias_size: Array
    groups: int
    window: Window

    @property
    def key(self) -> tuple[object, ...]:
        """What two forms must share to be compared element by element."""
        return (self.weight.shape, self.groups, self.window)

    def with_input(self, scale: Array, shift: Array) -> "Dense | None":
        """Put x = scale * x' + shift, both (in,); None where the padding's zeros would have to move as well."""
        if np.any(shift) and self.window.padded:
            return None
        rows = self.weight.shape[0] // self.groups
        columns = np.repeat(scale.reshape(self.groups, -1), rows, axis=0)
        shifts = np.repeat(shift.reshape(self.groups, -1), rows, axis=0)
        extra = (1,) * (self.weight.ndim - 2)
        moved = self.weight * shifts.reshape(*shifts.shape, *extra)
        axes = tuple(range(1, self.weight.ndim))
        factor = columns.reshape(*columns.shape, *extra)
        return replace(
            self,
            weight=self.weight * factor,
            size=self.size * np.abs(factor),
            bias=self.bias + moved.sum(axes),
            bias_size=np.maximum(self.bias_size, np.abs(moved).max(axes, initial=0.0)),
        )


def dense(form: Form) -> Dense | None:
    """Add the terms up; None where no one kernel is their sum."""
    window, kernels = form.terms[0].window, [term.kernel() for term in form.terms]
    groups, sizes = form.terms[0].in_groups, [np.abs(kernel) for kernel in kernels]
    if len(form.terms) > 1:
        laid = _common_window(form.terms)
        if laid is None:
            return None
        window, shape, places = laid
        groups = math.gcd(*(term.in_groups for term in form.terms))
        kernels = [
            _placed(_ungrouped(kernel, term.in_groups, groups), shape, place)
            for kernel, term, place in zip(kernels, form.terms, places, strict=True)
        ]
        if len({kernel.shape for kernel in kernels}) > 1:
            return None
        sizes = [np.abs(kernel) for kernel in kernels]
    weight, size = sum(kernels[1:], kernels[0]), np.maximum.reduce(sizes)
    return _without_trivial_axes(Dense(weight, size, form.bias, form.size, groups, window))


def _common_window(terms: Sequence[Term]) -> tuple[Window, tuple[int, ...], list[tuple[int, ...]]] | None:
    """Find the kernel that holds all: its window, its sizes, and where each term's kernel starts in it."""
    windows = [term.window for term in terms]
    if any(window.transposed for window in windows) or len({window.stride for window in windows}) > 1:
        return None
    rank = len(windows[0].stride)
    wide = [{window.dilation[i] for window, term in zip(windows, terms, strict=True) if term.sizes[i] > 1}
            for i in range(rank)]  # fmt: skip
    if any(len(found) > 1 for found in wide):
        return None
    dilation = tuple(next(iter(found), 1) for found in wide)
    begins = tuple(max(window.begins[i] for window in windows) for i in range(rank))
    gaps = [[begins[i] - window.begins[i] for i in range(rank)] for window in windows]
    if any(gap[i] % dilation[i] for gap in gaps for i in range(rank)):
        return None
    places = [tuple(gap[i] // dilation[i] for i in range(rank)) for gap in gaps]
    shape = tuple(max(place[i] + term.sizes[i] for place, term in zip(places, terms, strict=True)) for i in range(rank))
    ends = tuple(
        windows[0].ends[i] + dilation[i] * (shape[i] - terms[0].sizes[i]) - gaps[0][i] for i in range(rank)
    )  # fmt: skip
    return Window(windows[0].stride, dilation, begins, ends), shape, places


def _placed(kernel: Array, shape: tuple[int, ...], place: tuple[int, ...]) -> Array:
    whole = np.zeros((*kernel.shape[:2], *shape))
    inside = tuple(slice(start, start + size) for start, size in zip(place, kernel.shape[2:], strict=True))
    whole[(slice(None), slice(None), *inside)] = kernel
    return whole


def _ungrouped(kernel: Array, have: int, want: int) -> Array:
    """Write a kernel of `have` groups as one of `want`, which divides `have`, with zeros between the blocks."""
    if have == want:
        return kernel
    out, inner = kernel.shape[:2]
    per_block = have // want
    whole = np.zeros((out, inner * per_block, *kernel.shape[2:]))
    for group in range(have):
        rows = slice(group * out // have, (group + 1) * out // have)
        start = group % per_block * inner
        whole[rows, start : start + inner] = kernel[rows]
    return whole


def _without_trivial_axes(form: Dense) -> Dense:
    """Drop spatial axes over which a kernel of one number is moved step by step: a 1x1 convolution is a product."""
    window = form.window
    keep = [
        i for i, size in enumerate(form.weight.shape[2:])
        if size > 1 or window.stride[i] > 1 or window.begins[i] or window.ends[i]
    ]  # fmt: skip
    shape = (*form.weight.shape[:2], *(form.weight.shape[2 + i] for i in keep))
    pick = {
        name: tuple(getattr(window, name)[i] for i in keep) for name in ("stride", "dilation", "begins", "ends")
    }  # fmt: skip
    # Dilation says nothing about a single tap.
    pick["dilation"] = tuple(d if n > 1 else 1 for d, n in zip(pick["dilation"], shape[2:], strict=True))
    less = Window(**pick, transposed=window.transposed and bool(keep))
    return replace(form, weight=form.weight.reshape(shape), size=form.size.reshape(shape), window=less)
