"""The training loop: epochs over batches, with a state that can be saved after any batch and continued bit for bit."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnfold.errors import BnfoldError
from bnfold.training.history import Epoch, Totals
from bnfold.training.settings import SCHEDULES, Settings
from bnfold.training.statistics import batch_norms, non_finite
from bnfold.training.tasks import Objective

_EVALUATION_BATCH = 500

# Is told of every batch: the epoch (from 1), the batch (from 1), the number of batches, and the epoch's sums so far.
BatchDone = Callable[[int, int, int, Totals], None]


@dataclass(frozen=True)
class Part:
    """Inputs of (N, *input_shape) and labels of (N,), on the device."""

    x: Tensor
    y: Tensor


def batch_bounds(images: int, batch_size: int) -> list[tuple[int, int]]:
    """Cut `images` into batches of nearly equal size, none of a single image and none much above `batch_size`.

    A small last batch has poor statistics that BatchNorm's averages weigh like any other's; one image has none.
    """
    batches = max(1, min(math.ceil(images / batch_size), images // 2))
    edges = [images * index // batches for index in range(batches + 1)]
    return list(itertools.pairwise(edges))


def data_order(images: int, seed: int, epoch: int) -> Tensor:
    """Give the order in which an epoch (from 1) reads the images; it follows from these numbers, without a state."""
    return torch.randperm(images, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63))


def build_optimiser(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Build the optimiser; biases and BatchNorm's parameters don't decay."""
    exempt = {id(tensor) for layer in batch_norms(model) for tensor in layer.present()}
    exempt |= {id(tensor) for name, tensor in model.named_parameters() if name.endswith("bias")}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in exempt], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if id(p) in exempt], "weight_decay": 0.0},
    ]
    rate = settings.peak_learning_rate
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    return (torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW)(groups, lr=rate)


class Loop:
    """Trains a network in place.

    `epoch` epochs are done, and `batch` batches of the next, whose sums are `totals`.
    """

    def __init__(self, model: nn.Module, objective: Objective, train: Part, test: Part, settings: Settings) -> None:
        self.model, self.objective, self.train, self.test, self.settings = model, objective, train, test, settings
        self.optimiser = build_optimiser(model, settings)
        self.bounds = batch_bounds(len(train.x), settings.batch_size)
        self.epoch = 0
        self.batch = 0
        self.totals = Totals()

    def epochs(self, batch_done: BatchDone, stop: Callable[[], bool]) -> Iterator[Epoch]:
        """Train what is left, and give each epoch's figures; end early, after a whole batch, once `stop()` is true."""
        while self.epoch < self.settings.epochs:
            start = time.perf_counter()
            if not self._train_epoch(batch_done, stop):
                return
            test = self._evaluate()
            figures = Epoch(
                epoch=self.epoch + 1,
                learning_rate=self.optimiser.param_groups[0]["lr"],
                train_loss=self.totals.mean_loss,
                train_score=self.totals.mean_score,
                test_loss=test.mean_loss,
                test_score=test.mean_score,
                seconds=time.perf_counter() - start,
            )
            self.epoch, self.batch, self.totals = self.epoch + 1, 0, Totals()
            yield figures

    def _train_epoch(self, batch_done: BatchDone, stop: Callable[[], bool]) -> bool:
        """Train the batches that are left of the epoch; was it finished?"""
        self.model.train()
        order = data_order(len(self.train.x), self.settings.seed, self.epoch + 1).to(self.train.x.device)
        while self.batch < len(self.bounds):
            if stop():
                return False
            start, end = self.bounds[self.batch]
            self._train_batch(order[start:end])
            self.batch += 1
            batch_done(self.epoch + 1, self.batch, len(self.bounds), self.totals)
        if spoilt := non_finite(self.model):
            raise BnfoldError(self._advice(f"{spoilt[0]} has statistics that are not finite"))
        return True

    def _train_batch(self, indices: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        x, y = self.train.x[indices], self.train.y[indices]
        out = self.model(x)
        loss = self.objective.loss(out, x, y)
        if not math.isfinite(loss.item()):
            raise BnfoldError(self._advice(f"the loss is {loss.item()}"))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.totals.add(loss.item(), self.objective.points(out.detach(), x, y), len(x))

    def _learning_rate(self) -> float:
        steps = self.settings.epochs * len(self.bounds)
        progress = (self.epoch * len(self.bounds) + self.batch) / steps
        return self.settings.peak_learning_rate * SCHEDULES[self.settings.schedule](progress)

    def _evaluate(self) -> Totals:
        """Judge the held-out images, without gradients: a hand-written BatchNorm tells prediction by that alone."""
        self.model.eval()
        totals = Totals()
        with torch.no_grad():
            for start in range(0, len(self.test.x), _EVALUATION_BATCH):
                x, y = (tensor[start : start + _EVALUATION_BATCH] for tensor in (self.test.x, self.test.y))
                out = self.model(x)
                totals.add(self.objective.loss(out, x, y).item(), self.objective.points(out, x, y), len(x))
        if not math.isfinite(totals.loss):
            raise BnfoldError(self._advice(f"the held-out loss is {totals.loss}"))
        return totals

    def _advice(self, what: str) -> str:
        rate = self.settings.peak_learning_rate
        return f"training diverged in epoch {self.epoch + 1}: {what}; lower the learning rate (it is {rate:g})"

    def state(self) -> dict[str, Any]:
        """Give all that decides the rest of the run, except data and settings; read it with `load_state`."""
        device = self.train.x.device
        return {
            "model": {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": asdict(self.totals),
            "cpu_random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.batch, self.totals = state["epoch"], state["batch"], Totals(**state["totals"])
        torch.set_rng_state(state["cpu_random"])
        if state["cuda_random"] is not None and self.train.x.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.train.x.device)
