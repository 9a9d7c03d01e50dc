"""The user's own samples: arrays, dicts, an .npz or .npy file, or a folder of them, read one at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.arrays import load_arrays
from bnfold.checking.inputs import Sample, is_float, numpy_dtype
from bnfold.checking.replay import META
from bnfold.checking.subject import Array, Feed, InputSpec
from bnfold.errors import BnfoldError

_SUFFIXES = (".npz", ".npy")
_NO_NUMBERS = "OSUmM"  # kinds of NumPy: objects, texts, times


def read_samples(source: Any, specs: Sequence[InputSpec]) -> Iterator[Sample]:
    """Read samples for inputs `specs`.

    `source`: a path (.npz, .npy, or a folder of such), an array, a tuple of arrays (one an input), a dict by input
    name, or a list of any of these. Raises `BnfoldError` where a name, a shape or a dtype does not fit.
    """
    for name, item in named_items(source):
        for i, feed in enumerate(_feeds(name, item, specs)):
            yield Sample(f"sample/{name}" + (f"/{i}" if i else ""), "sample", feed)


def first_arrays(source: Any) -> Mapping[str, Array] | tuple[Array, ...]:
    """Give the arrays of the first sample, by name or position: what a module takes, where nothing else tells."""
    return next((item for _, item in named_items(source)), ())


def named_items(source: Any) -> Iterator[tuple[str, Mapping[str, Array] | tuple[Array, ...]]]:
    """Give each sample with its name, as a dict by input name or a tuple by position."""
    if isinstance(source, (str, Path)):
        yield from _files(Path(source))
    elif isinstance(source, list):
        for i, item in enumerate(source):
            yield from ((f"{i}" if name == "0" else f"{i}/{name}", x) for name, x in named_items(item))
    elif isinstance(source, Mapping):
        yield "0", {str(key): _array(value) for key, value in source.items()}
    elif isinstance(source, tuple):
        yield "0", tuple(_array(value) for value in source)
    else:
        yield "0", (_array(source),)


def _files(path: Path) -> Iterator[tuple[str, Mapping[str, Array] | tuple[Array, ...]]]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        if not files:
            raise BnfoldError(f"{path}: no .npz or .npy file in it")
        for file in files:
            yield from _files(file)
        return
    loaded = load_arrays(path)
    if isinstance(loaded, dict):
        loaded.pop(META, None)  # of a replay file, which is a sample too
        yield path.stem, loaded
    else:
        yield path.stem, (loaded,)


def _feeds(name: str, item: Mapping[str, Array] | tuple[Array, ...], specs: Sequence[InputSpec]) -> Iterable[Feed]:
    if isinstance(item, tuple):
        if len(item) != len(specs):
            raise BnfoldError(f"sample {name}: {len(item)} arrays for {len(specs)} inputs")
        return [tuple(_fit(name, spec, array) for spec, array in zip(specs, item, strict=True))]
    if not item:
        raise BnfoldError(f"sample {name} has no array")
    if set(item) == {spec.name for spec in specs}:
        return [tuple(_fit(name, spec, item[spec.name]) for spec in specs)]
    if len(specs) == 1:  # every array is a sample of the one input, whatever it is called
        return [(_fit(name, specs[0], array),) for array in item.values()]
    wanted = ", ".join(spec.name for spec in specs)
    raise BnfoldError(f"sample {name} has arrays {', '.join(item)}; the inputs are {wanted}")


def _fit(name: str, spec: InputSpec, array: Array) -> Array:
    fixed = zip(spec.dims, array.shape, strict=False)
    if len(spec.dims) != array.ndim or any(isinstance(dim, int) and dim != size for dim, size in fixed):
        raise BnfoldError(f"sample {name}: {spec.name} has shape {array.shape}; wanted {spec.dims}")
    if array.dtype.kind in _NO_NUMBERS:
        raise BnfoldError(f"sample {name}: {spec.name} is of {array.dtype}; wanted numbers")
    if is_float(spec.dtype) != is_float(array.dtype.name):
        raise BnfoldError(f"sample {name}: {spec.name} is of {array.dtype}; wanted {spec.dtype}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told as that
        return array.astype(numpy_dtype(spec.dtype))


def _array(value: Any) -> Array:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    from bnfold.checking.torch_module import to_array

    return to_array(value)
