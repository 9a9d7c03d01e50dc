"""What a network is trained to do: its loss, and a score that is 1 at best."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


class Objective(ABC):
    """Judges outputs for the inputs x and labels y of a batch of N images."""

    @abstractmethod
    def loss(self, out: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Give the mean loss, a scalar."""

    @abstractmethod
    def points(self, out: Tensor, x: Tensor, y: Tensor) -> float:
        """Give the sum of the images' scores."""


@dataclass(frozen=True)
class Classify(Objective):
    """Cross entropy; an image's score is 1 where it is classified rightly, else 0."""

    def loss(self, out: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Give the mean cross entropy of logits of (N, classes)."""
        return F.cross_entropy(out, y)

    def points(self, out: Tensor, x: Tensor, y: Tensor) -> float:
        """Count the images that are classified rightly."""
        return float((out.argmax(dim=1) == y).sum())


@dataclass(frozen=True)
class Reconstruct(Objective):
    """Mean squared error between output and input; the score is the share of `variance` that is explained."""

    variance: float

    def loss(self, out: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Give the mean squared error."""
        return F.mse_loss(out, x)

    def points(self, out: Tensor, x: Tensor, y: Tensor) -> float:
        """Give N (1 - mean squared error / variance)."""
        return len(x) * (1 - float(F.mse_loss(out, x)) / self.variance)


def objective(task: str, inputs: Tensor) -> Objective:
    """Give the objective of `task`; `inputs` are all that train."""
    return Classify() if task == "classify" else Reconstruct(float(inputs.var(correction=0)))
