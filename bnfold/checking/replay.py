"""The smallest input that shows a difference, as an .npz that `bnfold check --replay` and `--inputs` take."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnfold.checking.inputs import Sample
from bnfold.checking.subject import InputSpec
from bnfold.errors import BnfoldError


def save_replay(path: Path, specs: Sequence[InputSpec], sample: Sample) -> str:
    """Write the sample's arrays by input name, and give the path. `BnfoldError` where it can't be written."""
    arrays = {spec.name: array for spec, array in zip(specs, sample.feed, strict=True)}
    widened = {name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for name, a in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:  # a name without .npz stays as it is
            np.savez(file, allow_pickle=False, **widened)
    except OSError as error:
        raise BnfoldError(f"{path}: can't be written ({error.strerror})") from error
    return str(path)
