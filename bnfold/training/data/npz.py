"""An .npz file with x_train, y_train, x_test and y_test."""

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bnfold.arrays import load_arrays
from bnfold.errors import BnfoldError, UnsafeError
from bnfold.training.data.dataset import Dataset, Labels, checked, class_count

_NAMES: Final = ("x_train", "y_train", "x_test", "y_test")
_LARGEST: Final = 8 << 30  # bytes; a small archive can unpack to more than any machine has
_CHANNELS: Final = (1, 3, 4)


def read(place: str, _size: tuple[int, int]) -> Dataset:
    """Read the file `place`.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels, of uint8 (0 to 255) or floating
    (0 to 1, taken as they are); labels are integers of (N,) or (N, 1). An array `classes` of texts may name them.
    """
    name = f"npz:{place}"
    arrays = _load(Path(place), name)
    x_train, x_test = (_images(arrays[key], key, name) for key in ("x_train", "x_test"))
    y_train, y_test = (_labels(arrays[key], key, name) for key in ("y_train", "y_test"))
    if x_train.dtype != x_test.dtype:
        raise BnfoldError(f"{name}: x_train is {x_train.dtype} and x_test is {x_test.dtype}; make them agree")
    count = class_count(name, y_train, y_test)
    classes = tuple(str(text) for text in arrays.get("classes", np.arange(count)).ravel())
    peak = 255.0 if x_train.dtype == np.uint8 else 1.0
    return checked(Dataset(name, x_train, y_train, x_test, y_test, classes, peak))


def _load(path: Path, name: str) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise BnfoldError(f"{name}: no such file; give an .npz with {', '.join(_NAMES)}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.removesuffix(".npy") for entry in archive.namelist()]
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise UnsafeError(f"{name}: unpacks to more than {_LARGEST} bytes; check it")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BnfoldError(f"{name}: can't be read ({error}); write it with numpy.savez from plain arrays") from error
    missing = [key for key in _NAMES if key not in names]
    if missing:
        raise BnfoldError(f"{name}: has no {', '.join(missing)}; it holds {', '.join(names[:6]) or 'nothing'}")
    content = load_arrays(path, (*_NAMES, "classes"))
    assert isinstance(content, dict)
    return content


def _images(array: NDArray[Any], key: str, name: str) -> NDArray[Any]:
    """Bring images to (N, C, H, W)."""
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise BnfoldError(f"{name}: {key} is {array.dtype}; images are uint8 or floating")
    if array.ndim == 3:
        return array[:, np.newaxis]
    if array.ndim == 4 and array.shape[3] in _CHANNELS and array.shape[1] not in _CHANNELS:
        return array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] in _CHANNELS:
        return array
    raise BnfoldError(f"{name}: {key} has shape {array.shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W)")


def _labels(array: NDArray[Any], key: str, name: str) -> Labels:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise BnfoldError(f"{name}: {key} is {array.dtype} of {array.shape}; labels are integers of (N,)")
    return array.astype(np.int64)
