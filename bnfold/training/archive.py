"""torch.save's archives, written whole and read without running anything that they hold."""

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from bnfold.atomic import PatientFile, replacing
from bnfold.errors import BnfoldError, UnsafeError
from bnfold.formats import check_entry


def save(content: Mapping[str, object], path: str | os.PathLike[str]) -> None:
    """Write `content` (containers of numbers, texts and tensors) to `path`; the same content gives the same bytes.

    Raises BnfoldError where it can't be written.
    """
    try:
        # An open file and not its name: torch.save writes the name into the archive, and here it is a random one.
        with replacing(path) as temporary, PatientFile(temporary) as file:
            torch.save(dict(content), file)
    except (OSError, RuntimeError) as error:
        raise BnfoldError(f"{path}: can't be written ({_first_line(error)}); make room or choose another") from error


def read(path: str | os.PathLike[str], kind: str) -> Mapping[str, object]:
    """Read what `save` wrote; tensors come to the CPU. `kind` is what the messages call the file.

    Raises BnfoldError for anything that isn't such an archive or is damaged, and UnsafeError where reading it would
    run code or take far more memory than the file has bytes.
    """
    source = Path(path)
    if not source.exists():
        raise BnfoldError(f"{path}: no such file; give the path of {kind}")
    try:
        _look_over(source, kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch finds in a file that may be refused anyway
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeError(f"{path}: holds objects that only running its code would restore; {kind} has none") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise BnfoldError(f"{path}: can't be read as {kind} ({_first_line(error)})") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BnfoldError(f"{path}: holds a {type(content).__name__}; {kind} is a dict with names as keys")
    return content


def _look_over(source: Path, kind: str) -> None:
    """Refuse what torch.load reads in silence: flipped bytes, and entries that unpack to more than they take up."""
    if not source.is_file():
        raise BnfoldError(f"{source}: is not a file; give the path of {kind}")
    size = source.stat().st_size
    if not zipfile.is_zipfile(source):
        what = "is empty" if size == 0 else "is not an archive of torch.save"
        raise BnfoldError(f"{source}: {what}; {kind} is one")
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UnsafeError(f"{source}: has compressed entries, which torch.save never writes; save it anew")
        if sum(entry.file_size for entry in entries) > size:
            raise UnsafeError(f"{source}: its entries claim more bytes than the file has; save it anew")
        for entry in entries:
            check_entry(source, archive, entry)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
