"""The files of a run, all beside the checkpoint: MODEL.pt, .last.pt, .resume.pt, .jsonl and .svg."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bnfold.atomic import replacing
from bnfold.errors import BnfoldError
from bnfold.training.curves import svg
from bnfold.training.history import Epoch

_SUFFIXES: Final = (".pt", ".pth")


@dataclass(frozen=True)
class Outputs:
    """Where things are written: `best` is the checkpoint of the epoch with the best held-out score."""

    best: Path
    last: Path
    resume: Path
    log: Path
    curves: Path

    @classmethod
    def beside(cls, path: Path) -> "Outputs":
        """Name the files after the checkpoint `path`. Raises BnfoldError for another suffix than .pt or .pth."""
        if path.suffix not in _SUFFIXES or path.stem.endswith((".last", ".resume")):
            raise BnfoldError(f"{path}: a checkpoint's name ends in .pt; write for example model.pt")
        return cls(
            best=path,
            last=path.with_suffix(f".last{path.suffix}"),
            resume=path.with_suffix(f".resume{path.suffix}"),
            log=path.with_suffix(".jsonl"),
            curves=path.with_suffix(".svg"),
        )

    def begin_log(self, header: dict[str, Any], history: Sequence[Epoch], task: str) -> None:
        """Write the log anew: the settings, and the epochs of the run that is continued."""
        lines = [{"event": "start", **header}, *({"event": "epoch", **epoch.record(task)} for epoch in history)]
        with replacing(self.log) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add_to_log(self, event: str, record: dict[str, Any]) -> None:
        """Add a line."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **record}) + "\n")

    def draw(self, history: Sequence[Epoch], title: str, score: str) -> None:
        """Draw the curves."""
        with replacing(self.curves) as temporary:
            temporary.write_text(svg(history, title, score), encoding="utf-8")
