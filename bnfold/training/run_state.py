"""The file that lets a run be continued: plain data and tensors, as safe to load as a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bnfold.errors import BnfoldError
from bnfold.training import archive

FORMAT: Final = "bnfold.resume"
_VERSION: Final = 1
KIND: Final = "the state of a run of bnfold train"


def save(state: Mapping[str, object], path: Path) -> None:
    """Write the state, whole or not at all."""
    archive.save({"format": FORMAT, "version": _VERSION, **state}, path)


def read(path: Path) -> dict[str, Any]:
    """Read what `save` wrote. Raises BnfoldError where there is nothing, or something else."""
    if not path.exists():
        raise BnfoldError(f"{path}: no such file, so there is no run to continue; leave --resume out")
    content = archive.read(path, KIND)
    if content.get("format") != FORMAT or content.get("version") != _VERSION:
        raise BnfoldError(f"{path}: is not {KIND} of this version; train anew, without --resume")
    if not isinstance(content.get("history"), list):
        raise BnfoldError(f"{path}: has no history; train anew, without --resume")
    return dict(content)
