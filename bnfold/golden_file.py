"""Golden files on the disk: arrays by number, everything else in one JSON entry, sealed by a digest."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.arrays import NoArraysError, load_arrays
from bnfold.atomic import replacing
from bnfold.checking.inputs import Sample, numpy_dtype
from bnfold.checking.plain import from_plain, to_plain
from bnfold.checking.result import BudgetRow, Environment
from bnfold.checking.subject import Array, InputSpec
from bnfold.checking.truth import Facts
from bnfold.errors import BnfoldError
from bnfold.golden import Golden, Record

SCHEMA = "bnfold.golden/1"
_META = "bnfold.golden"
_SIDES = ("truth", "own", "nudged")


def save(golden: Golden, path: str | os.PathLike[str]) -> None:
    """Write the file, whole or not at all; its folder is made where it is missing."""
    arrays: dict[str, Array] = {}
    samples = []
    for i, item in enumerate(golden.records):
        arrays |= {f"{i}/input/{j}": _stored(array) for j, array in enumerate(item.sample.feed)}
        for side in _SIDES:
            arrays |= {f"{i}/{side}/{j}": _stored(x) for j, x in enumerate(getattr(item.facts, side).values())}
        samples.append({"name": item.sample.name, "kind": item.sample.kind})
    first = golden.records[0]
    meta = {
        "schema": SCHEMA,
        "reference": golden.reference,
        "dtype": golden.dtype,
        "named": golden.named,
        "seed": golden.seed,
        "inputs": to_plain(golden.inputs),
        "outputs": [{"name": name, "dtype": array.dtype.name} for name, array in first.facts.own.items()],
        "samples": samples,
        "budget": to_plain(golden.budget),
        "environment": to_plain(golden.environment),
    }
    whole = {**meta, "sha256": _digest(meta, arrays)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{_META: np.array(json.dumps(whole)), **arrays})


def load(path: str | os.PathLike[str]) -> Golden:
    """Read what `save` wrote. Raises BnfoldError where the file is missing, damaged, or of another version."""
    try:
        loaded = load_arrays(Path(path))
        arrays = loaded if isinstance(loaded, dict) else {}
        meta: dict[str, Any] = json.loads(str(arrays.pop(_META)))
        schema = meta["schema"]
    except (NoArraysError, ValueError, KeyError, TypeError) as error:
        raise BnfoldError(f"{path}: not a golden file") from error
    if schema != SCHEMA:
        raise BnfoldError(f"{path}: a golden file of schema {schema!r}; this version reads {SCHEMA!r}")
    if meta.pop("sha256", "") != _digest(meta, arrays):
        raise BnfoldError(f"{path}: its content is not what was recorded")
    try:
        return _golden(meta, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise BnfoldError(f"{path}: a damaged golden file ({type(error).__name__}: {error})") from error


def _golden(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> Golden:
    inputs = tuple(InputSpec(x["name"], x["dtype"], tuple(x["dims"]), x["limit"]) for x in meta["inputs"])
    outputs = [(item["name"], item["dtype"]) for item in meta["outputs"]]
    records = []
    for i, item in enumerate(meta["samples"]):
        feed = tuple(arrays[f"{i}/input/{j}"].astype(numpy_dtype(spec.dtype)) for j, spec in enumerate(inputs))
        sides = {side: {name: arrays[f"{i}/{side}/{j}"] for j, (name, _) in enumerate(outputs)} for side in _SIDES}
        sides["own"] = {name: sides["own"][name].astype(numpy_dtype(kind)) for name, kind in outputs}
        facts = Facts(sides["truth"], sides["own"], sides["nudged"])
        records.append(Record(Sample(item["name"], item["kind"], feed), facts))
    if not records:
        raise ValueError("no sample")
    return Golden(
        reference=meta["reference"],
        dtype=meta["dtype"],
        named=meta["named"],
        inputs=inputs,
        records=tuple(records),
        budget=from_plain(BudgetRow, meta["budget"]),
        environment=from_plain(Environment, meta["environment"]),
        seed=meta["seed"],
    )


def _stored(array: Array) -> Array:
    """NumPy's format has no bfloat16; float32 holds it exactly."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _digest(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
