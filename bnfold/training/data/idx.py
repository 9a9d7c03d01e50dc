"""The four IDX files of MNIST and its relatives, raw or gzipped.

An IDX file is two zero bytes, a type (8: unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit number, and the elements.
"""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import BnfoldError, UnsafeError
from bnfold.training.data.dataset import Dataset, checked

_LARGEST: Final = 4 << 30  # bytes; a few kilobytes of gzip can unpack to more than any machine has


def read(place: str, _size: tuple[int, int]) -> Dataset:
    """Read train-images, train-labels, t10k-images and t10k-labels from the folder `place`."""
    folder = Path(place)
    if not folder.is_dir():
        raise BnfoldError(f"idx:{place}: no such folder; give the one that holds the four IDX files")
    train_images, train_labels, test_images, test_labels = (
        _read_file(_find(folder, part, dimensions), dimensions)
        for part, dimensions in (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1))
    )
    labels = [array.astype(np.int64) for array in (train_labels, test_labels)]
    count = 1 + max((int(array.max()) for array in labels if array.size), default=0)
    return checked(
        Dataset(
            f"idx:{place}",
            train_images[:, np.newaxis],
            labels[0],
            test_images[:, np.newaxis],
            labels[1],
            tuple(str(label) for label in range(count)),
            peak=255.0,
        )
    )


def _find(folder: Path, part: str, dimensions: int) -> Path:
    names = [f"{part}{mark}idx{dimensions}-ubyte{suffix}" for suffix in ("", ".gz") for mark in "-."]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BnfoldError(f"idx:{folder}: has no {names[0]} or {names[2]}; four such files make the data")


def _read_file(path: Path, dimensions: int) -> NDArray[Any]:
    try:
        return _parse(path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise BnfoldError(f"{path}: can't be read ({error}); download it again") from error


def _parse(path: Path, dimensions: int) -> NDArray[Any]:
    """Read the array; the header is believed only as far as the content bears it out."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(4 + 4 * dimensions)
        if header[:4] != bytes((0, 0, 8, dimensions)):
            raise BnfoldError(
                f"{path}: begins with {header[:4].hex() or 'nothing'}, not {bytes((0, 0, 8, dimensions)).hex()}; "
                f"it is not an IDX file of bytes with {dimensions} dimension{'s' * (dimensions > 1)}"
            )
        if len(header) < 4 + 4 * dimensions:
            raise BnfoldError(f"{path}: ends within its header; download it again")
        shape = struct.unpack(f">{dimensions}I", header[4:])
        wanted = int(np.prod(shape, dtype=object))
        if wanted > _LARGEST:
            raise UnsafeError(f"{path}: claims {' x '.join(map(str, shape))} bytes, more than {_LARGEST}; check it")
        content = bytearray()
        while len(content) <= wanted and (chunk := file.read(1 << 20)):
            content += chunk
    if len(content) != wanted:
        got = len(content) if len(content) < wanted else "more"
        raise BnfoldError(
            f"{path}: claims {' x '.join(map(str, shape))} = {wanted} bytes and has {got}; download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
