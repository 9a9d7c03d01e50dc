"""The smallest input that shows a difference, as an .npz that `bnfold check --replay` (and `--inputs`) takes."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.atomic import replacing
from bnfold.checking.inputs import Sample
from bnfold.checking.subject import InputSpec
from bnfold.errors import BnfoldError

META = "bnfold.check"  # the entry that tells how to run the check again


@dataclass(frozen=True)
class Replay:
    """What a replay file holds: arrays by input name, and the arguments of the check that wrote it."""

    arrays: Mapping[str, np.ndarray[Any, Any]]
    arguments: Mapping[str, Any]


def save_replay(
    path: Path, specs: Sequence[InputSpec], sample: Sample, arguments: Mapping[str, Any] | None = None
) -> str:
    """Write the sample's arrays by input name, and give the path. `BnfoldError` where it can't be written."""
    arrays = {spec.name: array for spec, array in zip(specs, sample.feed, strict=True)}
    widened = {name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for name, a in arrays.items()}
    widened[META] = np.array(json.dumps({"input": sample.name, **(arguments or {})}))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **widened)
    return str(path)


def load_replay(path: str | Path) -> Replay:
    """Read what `save_replay` wrote. `BnfoldError` for another file."""
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        arguments = json.loads(str(arrays.pop(META)))
    except FileNotFoundError:
        raise BnfoldError(f"{path}: no such file") from None
    except (ValueError, OSError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise BnfoldError(f"{path}: not a replay file of bnfold check") from error
    return Replay(arrays, arguments if isinstance(arguments, dict) else {})
