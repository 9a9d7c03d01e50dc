"""What the two models are run on: seeded, both signs, at the scale that the first layers expect, borders, all sizes."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from bnfold.checking.result import InputRecord
from bnfold.checking.subject import Array, Feed, InputSpec
from bnfold.errors import UnverifiedError

TYPICAL = (32, 64, 28, 224, 16, 8, 128, 299)
SMALLEST = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 24, 31)
BATCH = 8
_ELEMENTS = 400_000  # in one typical sample: it is run in float64
_LARGE = 100_000  # numbers in one item (an image of 3 x 224 x 224 has 150,528): such inputs are fewer
_ESSENTIAL = ("positive", "wide")
Sizes = Mapping[str, int]
Accepts = Callable[[Feed], bool]


@dataclass(frozen=True)
class Sample:
    """One set of inputs. Arrays are in each input's own dtype, so that every run reads the very same numbers."""

    name: str
    kind: str
    feed: Feed

    def record(self, specs: Sequence[InputSpec]) -> InputRecord:
        """Describe it for the result."""
        shapes = tuple((spec.name, tuple(array.shape)) for spec, array in zip(specs, self.feed, strict=True))
        return InputRecord(self.name, self.kind, shapes)


@dataclass(frozen=True)
class Dimensions:
    """Sizes that the model accepts for its dynamic dimensions."""

    typical: Sizes
    smallest: Sizes | None
    largest: Sizes | None
    batches: tuple[int, ...]  # the first one is the typical one
    batch_names: frozenset[str]
    large: bool = False

    def with_batch(self, sizes: Sizes, batch: int) -> dict[str, int]:
        """Give `sizes` with the batch dimensions set."""
        return {**sizes, **dict.fromkeys(self.batch_names, batch)}


def explore(specs: Sequence[InputSpec], accepts: Accepts, seed: int) -> tuple[Dimensions, tuple[str, ...]]:
    """Find sizes that the model accepts, and what had to be assumed. `UnverifiedError` where none is found."""
    batch_names = frozenset(spec.dims[0] for spec in specs if spec.dims and isinstance(spec.dims[0], str))
    names = {dim for spec in specs for dim in spec.dims if isinstance(dim, str)} - batch_names

    def taken(size: int, batch: int) -> bool:
        sizes = {**dict.fromkeys(names, size), **dict.fromkeys(batch_names, batch)}
        return _elements(specs, sizes) <= 50 * _ELEMENTS and accepts(random_feed(specs, sizes, seed, 1.0))

    batch, typical = next(((b, s) for b in (1, 2) for s in (TYPICAL if names else TYPICAL[:1]) if taken(s, b)), (0, 0))
    if not batch:
        wanted = ", ".join(f"{spec.name} {spec.dims}" for spec in specs)
        raise UnverifiedError(f"the reference runs at none of the sizes tried for {wanted}; give --inputs")
    assumed = []
    smallest = next((s for s in SMALLEST if names and s < typical and taken(s, batch)), None)
    largest = next((s for s in (2 * typical + 1, 2 * typical) if names and taken(s, batch)), None)
    if names:
        found = ", ".join(str(size) for size in (smallest, typical, largest) if size)
        assumed.append(f"dynamic dimensions {', '.join(sorted(names))} were run at {found}")
    one = _elements(specs, {**dict.fromkeys(names, typical), **dict.fromkeys(batch_names, 1)})
    most = max(2, min(BATCH, _ELEMENTS // max(one, 1)))
    wanted_batches = dict.fromkeys((most, 1) if one > _LARGE else (most, 1, 3))
    batches = tuple(b for b in wanted_batches if batch_names and taken(typical, b)) or (batch,)
    if batch_names and len(batches) == 1:
        tried = ", ".join(map(str, wanted_batches))
        assumed.append(f"batch size {batches[0]} is the only one of {tried} that the reference accepts")
    return (
        Dimensions(
            typical=dict.fromkeys(names, typical),
            smallest=dict.fromkeys(names, smallest) if smallest else None,
            largest=dict.fromkeys(names, largest) if largest else None,
            batches=batches,
            batch_names=batch_names,
            large=one > _LARGE,
        ),
        tuple(assumed),
    )


def draw(specs: Sequence[InputSpec], dimensions: Dimensions, seed: int, scale: float) -> Iterator[Sample]:
    """Make the samples. `scale`: standard deviation of the random ones."""
    typical, batches = dimensions.typical, dimensions.batches
    for i, batch in enumerate(batches):
        feed = random_feed(specs, dimensions.with_batch(typical, batch), seed + i, scale)
        yield Sample(f"random/{batch}", "random", feed)
    first = dimensions.with_batch(typical, batches[0])
    single = dimensions.with_batch(typical, min(batches))
    for name, sizes in (("smallest", dimensions.smallest), ("largest", dimensions.largest)):
        if sizes is not None:
            batch = min(batches)
            yield Sample(name, "random", random_feed(specs, dimensions.with_batch(sizes, batch), seed + 11, scale))
    for i, (name, change) in enumerate(_SHAPES_OF_NOISE.items()):
        if dimensions.large and name not in _ESSENTIAL:
            continue
        feed = random_feed(specs, first if i < 2 else single, seed + 21 + i, scale)
        yield Sample(name, "random", _on_floats(specs, feed, change))
    if not any(is_float(spec.dtype) for spec in specs):
        return
    for name, level in (("zeros", 0.0), ("constant/+", scale), ("constant/-", -scale)):
        feed = random_feed(specs, single, seed + 31, scale)
        kind = "constant" if level else "zeros"
        yield Sample(name, kind, _on_floats(specs, feed, lambda a, level=level: np.full_like(a, level)))  # type: ignore[misc]
    yield from _impulses(specs, single, seed + 41, scale, corners_only=dimensions.large)


_SHAPES_OF_NOISE: Mapping[str, Callable[[Array], Array]] = {
    "positive": np.abs,
    "negative": lambda array: -np.abs(array),
    "wide": lambda array: 4 * array,
    "narrow": lambda array: array / 16,
}


def _impulses(
    specs: Sequence[InputSpec], sizes: Sizes, seed: int, scale: float, *, corners_only: bool
) -> Iterator[Sample]:
    """One bright pixel at each corner, at the middle of each border and at the centre."""
    rank = max((len(spec.dims) - 2 for spec in specs if is_float(spec.dtype)), default=0)
    if rank < 1:
        return
    # 3^rank places; past two axes, and for large inputs, two opposite corners and the centre stand for all
    few = rank > 2 or corners_only
    grid = ((f,) * rank for f in (0.0, 0.5, 1.0)) if few else itertools.product((0.0, 0.5, 1.0), repeat=rank)
    for place in grid:
        feed = random_feed(specs, sizes, seed, scale)
        spots = [
            _impulse(array, place) if is_float(spec.dtype) else array for spec, array in zip(specs, feed, strict=True)
        ]
        name = "impulse/" + ",".join("start" if f == 0 else "end" if f == 1 else "middle" for f in place)
        yield Sample(name, "impulse", tuple(spots))


def _impulse(array: Array, place: Sequence[float]) -> Array:
    spatial = array.shape[2:]
    index = tuple(round(f * (size - 1)) for f, size in zip(place, spatial, strict=False))
    spot = np.zeros_like(array)
    where = (slice(None), slice(None), *index) if array.ndim >= 2 else (slice(None),)
    spot[where] = 4 * array[where]
    return spot


def random_feed(specs: Sequence[InputSpec], sizes: Sizes, seed: int, scale: float) -> Feed:
    """Draw normal floats (mean 0), integers below each input's limit, and fair booleans."""
    generator = np.random.default_rng(seed)
    return tuple(_random(spec, _shape(spec, sizes), generator, scale) for spec in specs)


def _random(spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator, scale: float) -> Array:
    if is_float(spec.dtype):
        return (generator.standard_normal(shape) * scale).astype(numpy_dtype(spec.dtype))
    if spec.dtype == "bool":
        return generator.random(shape) < 0.5
    if np.issubdtype(np.dtype(spec.dtype), np.integer):
        return generator.integers(0, max(spec.limit, 2), shape).astype(spec.dtype)
    raise UnverifiedError(f"input {spec.name} is of {spec.dtype}; give inputs of your own")


def _shape(spec: InputSpec, sizes: Sizes) -> tuple[int, ...]:
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)


def _elements(specs: Sequence[InputSpec], sizes: Sizes) -> int:
    return sum(math.prod(_shape(spec, sizes)) for spec in specs)


def _on_floats(specs: Sequence[InputSpec], feed: Feed, change: Callable[[Array], Array]) -> Feed:
    return tuple(
        change(array).astype(array.dtype) if is_float(spec.dtype) else array
        for spec, array in zip(specs, feed, strict=True)
    )


def is_float(dtype: str) -> bool:
    """Whether a dtype's name is that of a float."""
    return dtype in ("float16", "bfloat16", "float32", "float64")


def numpy_dtype(name: str) -> Any:
    """NumPy's dtype of that name, bfloat16 included."""
    return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)
