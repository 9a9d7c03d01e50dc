"""Committed models that a fold would still change, or that were folded from something older."""

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bnfold.errors import BnfoldError, UnverifiedError
from bnfold.settings import Settings

SUFFIXES = (".onnx", ".pt", ".pth", ".pt2", ".safetensors")
SOURCE = "bnfold.source_sha256"  # in an exported file's metadata: the SHA-256 of the file that it was made from
_UNREADABLE = 3
_STATE = ".resume.pt"  # the end of the name of what `bnfold train --resume` needs, which is no model


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file. rule: foldable, stale or unreadable; affines: what a fold would remove."""

    path: Path
    rule: str
    message: str
    affines: tuple[str, ...] = ()
    exit_status: int = 1


def models(paths: Sequence[Path], settings: Settings) -> list[Path]:
    """Give the model files among `paths` and in the folders among them, but for those that the settings allow.

    Hidden folders are passed over. Raises BnfoldError for a path that isn't there, UnverifiedError where no model is
    or a folder can't be read.
    """
    found = {path: list(_models_of(path)) for path in paths}
    empty = [str(path) for path, files in found.items() if not files]
    if empty:
        raise UnverifiedError(f"no model file ({', '.join(SUFFIXES)}) in {', '.join(empty)}")
    every = dict.fromkeys(file for files in found.values() for file in files)
    return [file for file in every if not _is_allowed(file, settings)]


def lint(files: Iterable[Path], settings: Settings, **opening: Any) -> Iterator[Finding]:
    """Look at each file. opening: arch, inputs, trust: how PyTorch files are opened."""
    for file in files:
        yield from _stale(file)
        yield from _foldable(file, settings, opening)


def exit_status(findings: Sequence[Finding]) -> int:
    """1 where a model is foldable or stale; else what an unreadable one asks for; else 0."""
    statuses = {finding.exit_status for finding in findings}
    return 1 if 1 in statuses else max(statuses, default=0)


def _models_of(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if not path.exists():
            raise BnfoldError(f"{path}: no such file or folder")
        yield path
        return
    for folder, names, files in os.walk(path, onerror=_refuse):
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if _is_named_as_a_model(name))


def _is_named_as_a_model(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.endswith(_STATE)


def _refuse(error: OSError) -> NoReturn:
    raise UnverifiedError(f"{error.filename}: can't be looked into ({error.strerror})") from error


def _is_allowed(file: Path, settings: Settings) -> bool:
    if settings.file is None:
        return False
    place = Path(os.path.relpath(file.resolve(), settings.file.parent)).as_posix()
    return any(fnmatch.fnmatch(place, pattern) for pattern in settings.lint.allow)


def _foldable(file: Path, settings: Settings, opening: dict[str, Any]) -> Iterator[Finding]:
    from bnfold.folding_files import Request, fold_file
    from bnfold.formats import Kind, kind_of

    selection: dict[str, Any] = {"level": settings.level, "only": settings.only, "skip": settings.skip}
    try:
        given = {} if kind_of(file) is Kind.ONNX else opening
        plan = fold_file(Request(file, dry_run=True, **selection, **given)).plan
    except BnfoldError as error:
        text = str(error).removeprefix(f"{file}: ")
        yield Finding(file, "unreadable", text, exit_status=max(error.exit_status, _UNREADABLE))
        return
    names = tuple(outcome.affine for outcome in plan.folded)
    if names:
        count = "1 affine" if len(names) == 1 else f"{len(names)} affines"
        yield Finding(file, "foldable", f"{count} can be folded; run bnfold fold {file}", names)


def _stale(file: Path) -> Iterator[Finding]:
    """A model beside its source (the same name, another extension) that has changed since the export."""
    recorded = _recorded_source(file)
    sources = [other for suffix in SUFFIXES[1:] if (other := file.with_suffix(suffix)).is_file()]
    if not recorded or not sources or recorded in map(_sha256, sources):
        return
    names = " or ".join(str(source) for source in sources)
    message = f"it was folded from an older {names}; run bnfold export {sources[0]} -o {file}"
    yield Finding(file, "stale", message)


def _recorded_source(file: Path) -> str:
    if file.suffix.lower() != ".onnx":
        return ""
    from bnfold.adapters.onnx_skeleton import skeleton
    from bnfold.adapters.onnx_wire import File

    try:
        properties = skeleton(File(file)).proto.metadata_props
    except BnfoldError:
        return ""  # what is wrong with the file is told once, by the fold
    return next((str(item.value) for item in properties if item.key == SOURCE), "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
