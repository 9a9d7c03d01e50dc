"""What is shown while a network trains: a bar on a terminal, nothing elsewhere."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bnfold.models import ARCHITECTURES
from bnfold.training.history import SCORES, Epoch, Totals
from bnfold.training.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


class Watcher:
    """Follows a run, and shows nothing of it."""

    def batch_done(self, epoch: int, batch: int, batches: int, totals: Totals) -> None:
        """Take note of a batch, numbered from 1."""

    def epoch_done(self, epoch: Epoch) -> None:
        """Take note of an epoch."""


class Progress(ABC):
    """A way to show a run."""

    @abstractmethod
    def shown(self, settings: Settings, history: Sequence[Epoch]) -> contextlib.AbstractContextManager[Watcher]:
        """Follow a run that has trained `history` before."""


class Silent(Progress):
    """Show nothing."""

    @contextlib.contextmanager
    def shown(self, settings: Settings, history: Sequence[Epoch]) -> Iterator[Watcher]:
        """Follow a run."""
        yield Watcher()


class Bar(Progress):
    """A bar over all batches of the run, with the loss and the score of the epoch so far and the best held out."""

    def __init__(self, console: "Console | None" = None) -> None:
        self._console = console

    @contextlib.contextmanager
    def shown(self, settings: Settings, history: Sequence[Epoch]) -> Iterator[Watcher]:
        """Follow a run."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
        with Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True) as progress:
            task = progress.add_task(settings.architecture, total=settings.epochs, figures="")

            def update(done: float, epoch: int, figures: str) -> None:
                name = f"{settings.architecture} epoch {epoch}/{settings.epochs}"
                progress.update(task, completed=done, description=name, figures=figures)

            yield _BarWatcher(update, SCORES[ARCHITECTURES[settings.architecture].task], history)


class _BarWatcher(Watcher):
    def __init__(self, update: Callable[[float, int, str], None], score: str, history: Sequence[Epoch]) -> None:
        self._update, self._score = update, score
        self._best = max((epoch.test_score for epoch in history), default=None)

    def batch_done(self, epoch: int, batch: int, batches: int, totals: Totals) -> None:
        figures = f"loss {totals.mean_loss:.3f}  {self._score} {totals.mean_score:6.1%}"
        if self._best is not None:
            figures += f"  held out {self._best:6.1%}"
        self._update(epoch - 1 + batch / batches, epoch, figures)

    def epoch_done(self, epoch: Epoch) -> None:
        self._best = epoch.test_score if self._best is None else max(self._best, epoch.test_score)
