"""What a run has measured, epoch by epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

# What a score is called, by task: the share of images classified rightly, or of the variance that the
# reconstruction explains. Both are 1 at best.
SCORES: Final[Mapping[str, str]] = MappingProxyType({"classify": "accuracy", "reconstruct": "explained"})


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures. `train_*` are averages while the weights moved, `test_*` are of the held-out images."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_score: float
    test_loss: float
    test_score: float
    seconds: float

    def record(self, task: str) -> dict[str, Any]:
        """Give plain data with the scores under their proper name."""
        return {key.replace("score", SCORES[task]): value for key, value in asdict(self).items()}

    def metrics(self, task: str) -> dict[str, float]:
        """Give what a checkpoint says: the record without the time, so that equal runs write equal bytes."""
        record = self.record(task)
        del record["seconds"]
        return record


@dataclass
class Totals:
    """Sums over the batches of one epoch so far, kept when a run is interrupted within it."""

    loss: float = 0.0
    points: float = 0.0
    images: int = 0

    def add(self, mean_loss: float, points: float, images: int) -> None:
        """Add a batch of `images` images, whose scores sum to `points`."""
        self.loss += mean_loss * images
        self.points += points
        self.images += images

    @property
    def mean_loss(self) -> float:
        """Give the loss per image."""
        return self.loss / max(1, self.images)

    @property
    def mean_score(self) -> float:
        """Give the score per image."""
        return self.points / max(1, self.images)
