"""The smallest input that shows a difference, as an .npz that `bnfold check --replay` (and `--inputs`) takes."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.arrays import NoArraysError, load_arrays
from bnfold.atomic import replacing
from bnfold.checking.inputs import Sample
from bnfold.checking.result import Verdict
from bnfold.checking.subject import InputSpec
from bnfold.errors import BnfoldError

if TYPE_CHECKING:
    from bnfold.checking.trial import Trial

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
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in widened.items():  # numpy.savez takes no array of the name `file`
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return str(path)


def save_replays(trials: Sequence["Trial"], path: Path) -> Iterator[str]:
    """Save the smallest telling input of each candidate that differs; say of one where that can't be done."""
    saved: dict[str, str] = {}
    for trial in trials:
        if trial.telling is None or trial.run().verdict is not Verdict.DIFFERENT:
            continue
        label = trial.candidate.label
        if label not in saved:
            place = path.with_stem(f"{path.stem}{f'-{len(saved) + 1}' if saved else ''}")
            sides = {"reference": trial.reference.source_name, "candidates": [trial.candidate.source_name]}
            try:
                saved[label] = save_replay(place, trial.reference.inputs, trial.smallest_telling(), sides)
            except BnfoldError as error:  # the verdict is worth more than the file
                saved[label] = ""
                yield f"the input that shows the difference was not saved: {error}"
        trial.replay = saved[label]


def load_replay(path: str | Path) -> Replay:
    """Read what `save_replay` wrote. `BnfoldError` for another file."""
    try:
        loaded = load_arrays(Path(path))
        arrays = loaded if isinstance(loaded, dict) else {}
        arguments = json.loads(str(arrays.pop(META)))
    except (NoArraysError, ValueError, KeyError) as error:
        raise BnfoldError(f"{path}: not a replay file of bnfold check") from error
    return Replay(arrays, arguments if isinstance(arguments, dict) else {})
