"""Whole runs: from a name and data to a trained network and its files, and from an interrupted run onwards."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from torch import nn

from bnfold.atomic import check_writable
from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES, create
from bnfold.training import data, hardware, run_state
from bnfold.training.checkpoint import Checkpoint, read
from bnfold.training.data.shaping import image_size, normalisation, normalise_, to_inputs
from bnfold.training.history import SCORES, Epoch
from bnfold.training.interruption import Interruption
from bnfold.training.loop import Loop, Part
from bnfold.training.outputs import Outputs
from bnfold.training.progress import Progress, Silent
from bnfold.training.settings import Options, Settings
from bnfold.training.tasks import objective


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; what was trained is saved, where there is a place to save it."""


@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    `model` has the weights of the epoch with the best held-out score, on the CPU and in eval mode; `checkpoint`
    holds the same. The score of the best of many epochs on the images that chose it is a little optimistic.
    """

    model: nn.Module
    checkpoint: Checkpoint
    history: tuple[Epoch, ...]
    settings: Settings
    outputs: Outputs | None

    @property
    def best(self) -> Epoch:
        """Give the figures of the epoch whose weights these are."""
        return self.history[int(self.checkpoint.metrics["epoch"]) - 1]

    @property
    def score_name(self) -> str:
        """Give what `test_score` is: accuracy or explained."""
        return SCORES[ARCHITECTURES[self.settings.architecture].task]


def train(
    architecture: str,
    *,
    data: str = "digits",
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Unpack[Options],
) -> TrainResult:
    """Train `architecture` (a name in `bnfold.models.ARCHITECTURES`) on `data`; `settings` are those of `Settings`.

    With `output`, such as "model.pt", the files of `Outputs` are written, each whole or not at all; without it,
    none. The caller's random state is left as it was. The same settings give the same bits on the CPU.

    Raises BnfoldError for settings or data that can't be used and for a run that diverges, and TrainingInterrupted
    on Ctrl-C.
    """
    outputs = None if output is None else Outputs.beside(Path(output))
    return _Run(Settings(architecture, data, **settings), outputs, progress or Silent()).go(None)


def resume(
    output: str | os.PathLike[str],
    *,
    data: str | None = None,
    epochs: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Continue the run that wrote `output`, with its own settings, to `epochs` in all.

    `data` says where the same data are, if they have moved.

    On the CPU the result has the bits of a run that was never interrupted; where `epochs` changes, those of one
    whose learning rate followed the old schedule so far.

    Raises BnfoldError where there is nothing to continue, or the data have changed, besides what `train` raises.
    """
    outputs = Outputs.beside(Path(output))
    state = run_state.read(outputs.resume)
    earlier = Settings.from_dict(state.get("settings")).to_dict()
    changes = {"data": data, "epochs": epochs, "device": device}
    settings = Settings.from_dict(earlier | {key: value for key, value in changes.items() if value is not None})
    if settings.epochs < len(state["history"]):
        raise BnfoldError(f"{outputs.resume}: {len(state['history'])} epochs are done; give --epochs that many or more")
    return _Run(settings, outputs, progress or Silent()).go(state)


def is_finished(output: str | os.PathLike[str]) -> bool:
    """Whether `output` is the best checkpoint of a run that came to its last epoch.

    Raises BnfoldError where it, or the state of its run, can't be read.
    """
    outputs = Outputs.beside(Path(output))
    state, metrics = run_state.read(outputs.resume), read(outputs.best).metrics
    ended = len(state["history"]) >= Settings.from_dict(state.get("settings")).epochs
    # A run that was killed may have left a checkpoint beside the state of an earlier one.
    return ended and state.get("best") is not None and dict(metrics) == state["best"].get("metrics")


class _Run:
    """One run: its data, its loop, and the best epoch so far."""

    def __init__(self, settings: Settings, outputs: Outputs | None, progress: Progress) -> None:
        self.settings, self.outputs, self.progress = settings, outputs, progress
        self.architecture = ARCHITECTURES[settings.architecture]
        self.device = hardware.device(settings.device)
        self.dataset = data.read(settings.data, image_size(self.architecture.input_shape))
        self.fingerprint = self.dataset.fingerprint()
        self.input_shape = (self.dataset.channels, *self.architecture.input_shape[1:])
        self.mean, self.std = normalisation(self.dataset)
        self.history: list[Epoch] = []
        self.best: Checkpoint | None = None
        self._earlier: tuple[Epoch, ...] = ()
        self._logging = False

    def go(self, state: Mapping[str, Any] | None) -> TrainResult:
        """Train from the beginning, or from `state` on."""
        if self.outputs is not None:
            check_writable(self.outputs.best)
        cuda = [self.device] if self.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=cuda),
            hardware.threads(self.settings.threads),
            Interruption() as interruption,
        ):
            torch.manual_seed(self.settings.seed)
            loop = self._loop()
            if state is not None:
                self._continue(loop, state)
            with self.progress.shown(self.settings, self.history) as watcher:
                for epoch in loop.epochs(watcher.batch_done, lambda: interruption.asked):
                    self._note(epoch, loop)
                    watcher.epoch_done(epoch)
            if loop.epoch < self.settings.epochs:
                raise TrainingInterrupted(self._save_interrupted(loop))
        return self._result()

    def _loop(self) -> Loop:
        model = create(self.settings.architecture, **self._arguments()).to(self.device)
        train = self._part(self.dataset.train_images, self.dataset.train_labels)
        test = self._part(self.dataset.test_images, self.dataset.test_labels)
        return Loop(model, objective(self.architecture.task, train.x), train, test, self.settings)

    def _arguments(self) -> dict[str, Any]:
        """Give all of the constructor's arguments, so that the checkpoint doesn't depend on defaults."""
        settings = self.settings
        sizes = {"in_channels": self.dataset.channels}
        if self.architecture.task == "classify":
            sizes["num_classes"] = len(self.dataset.classes)
        batch_norm = {"bn_eps": settings.bn_eps, "bn_momentum": settings.bn_momentum}
        return {**self.architecture.arguments, **sizes, **settings.arguments, **batch_norm}

    def _part(self, images: Any, labels: Any) -> Part:
        x = normalise_(to_inputs(images, self.dataset.peak, self.input_shape), self.mean, self.std)
        return Part(x.to(self.device), torch.from_numpy(labels).to(self.device))

    def _continue(self, loop: Loop, state: Mapping[str, Any]) -> None:
        if state.get("data") != self.fingerprint:
            raise BnfoldError(f"{self.dataset.name}: has changed since the run began; train anew, without --resume")
        try:
            loop.load_state(state["loop"])
            self.history = [Epoch(**record) for record in state["history"]]
            self.best = None if state["best"] is None else Checkpoint.from_dict(state["best"], "best checkpoint")
            if not self._is_sound(loop):
                raise ValueError("its parts contradict one another")
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BnfoldError("the state of the run is malformed; train anew, without --resume") from error
        self._earlier = tuple(self.history)

    def _is_sound(self, loop: Loop) -> bool:
        """Whether the epochs that a state says are done are those that it has figures of."""
        done = range(1, len(self.history) + 1)
        best = None if self.best is None else self.best.metrics.get("epoch")
        return (
            loop.epoch == len(done)
            and loop.batch in range(len(loop.bounds))
            and [epoch.epoch for epoch in self.history] == list(done)
            and all(isinstance(x, (int, float)) for epoch in self.history for x in asdict(epoch).values())
            and (best in done if done else best is None)
        )

    def _checkpoint(self, loop: Loop, metrics: dict[str, float]) -> Checkpoint:
        return Checkpoint(
            architecture=self.settings.architecture,
            arguments=self._arguments(),
            state_dict={name: tensor.detach().cpu().clone() for name, tensor in loop.model.state_dict().items()},
            input_shape=self.input_shape,
            mean=self.mean,
            std=self.std,
            classes=self.dataset.classes,
            metrics=metrics,
        )

    def _note(self, epoch: Epoch, loop: Loop) -> None:
        """Save an epoch, the state last: what it says is saved then is."""
        self.history.append(epoch)
        task = self.architecture.task
        last = self._checkpoint(loop, epoch.metrics(task))
        better = epoch is max(self.history, key=_merit)
        self.best = last if better else self.best
        if self.outputs is None:
            return
        if better:
            last.save(self.outputs.best)
        last.save(self.outputs.last)
        self._log(self.outputs, "epoch", epoch.record(task))
        self.outputs.draw(self.history, f"{self.settings.architecture} on {self.dataset.name}", SCORES[task])
        self._save_state(loop, self.outputs)

    def _log(self, outputs: Outputs, event: str, record: dict[str, Any]) -> None:
        """Add a line to the log, which begins anew with the first one of a run: till then the old files stay whole."""
        if not self._logging:
            header = {"settings": self.settings.to_dict(), "torch": torch.__version__}
            outputs.begin_log(header, self._earlier, self.architecture.task)
            self._logging = True
        outputs.add_to_log(event, record)

    def _save_state(self, loop: Loop, outputs: Outputs) -> None:
        state = {
            "settings": self.settings.to_dict(),
            "data": self.fingerprint,
            "history": [asdict(epoch) for epoch in self.history],
            "best": None if self.best is None else self.best.to_dict(),
            "loop": loop.state(),
        }
        run_state.save(state, outputs.resume)

    def _save_interrupted(self, loop: Loop) -> str:
        """Save the weights as they are, unjudged, and the state; give the message."""
        where = f"interrupted in epoch {loop.epoch + 1}, after batch {loop.batch} of {len(loop.bounds)}"
        if self.outputs is None:
            return where
        self._checkpoint(loop, {"epoch": loop.epoch}).save(self.outputs.last)
        self._save_state(loop, self.outputs)
        self._log(self.outputs, "interrupted", {"epoch": loop.epoch + 1, "batch": loop.batch})
        return f"{where}; saved {self.outputs.last} and {self.outputs.resume}, continue with --resume"

    def _result(self) -> TrainResult:
        best = cast(Checkpoint, self.best)
        if self.outputs is not None:
            best.save(self.outputs.best)
        return TrainResult(best.model(), best, tuple(self.history), self.settings, self.outputs)


def _merit(epoch: Epoch) -> tuple[float, float]:
    """Rank epochs by their held-out score, which few images make coarse, and those alike by their loss."""
    return epoch.test_score, -epoch.test_loss
