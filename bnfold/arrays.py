"""Arrays of .npz and .npy files, which may hold anything."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import BnfoldError

Array = NDArray[Any]


class NoArraysError(BnfoldError):
    """The file is there, and arrays are not what it holds."""


def load_arrays(path: Path, names: Collection[str] | None = None) -> Array | dict[str, Array]:
    """Read an .npy file, or the arrays of an .npz by name (of `names` those that are there; by default all).

    Raises BnfoldError where there is no such file, and NoArraysError for any other one.
    """
    if not path.is_file():
        raise BnfoldError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as stream:  # numpy leaves a damaged file open that it opened itself
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            found = {name: loaded[name] for name in loaded.files if names is None or name in names}
    except Exception as error:  # numpy, zipfile and zlib have a dozen between them
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoArraysError(f"{path}: can't be read as arrays: {why}") from error
    odd = [name for name, item in found.items() if not isinstance(item, np.ndarray)]
    if odd:
        raise NoArraysError(f"{path}: {odd[0]} is no array; write the file with numpy.savez")
    return found
