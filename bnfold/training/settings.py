"""What a training run is told, and what each choice means."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, TypedDict

from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES

# The learning rate that suits each optimiser on small images.
OPTIMISERS: Final[Mapping[str, float]] = MappingProxyType({"adamw": 0.01, "adam": 0.01, "sgd": 0.1})


def _one_cycle(progress: float) -> float:
    """Rise linearly over the first quarter, then fall as a cosine."""
    return 0.04 + 0.96 * progress / 0.25 if progress < 0.25 else _cosine((progress - 0.25) / 0.75)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _step(progress: float) -> float:
    """Fall to a tenth at the half, and again at three quarters."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


# Each gives the factor of the learning rate for a progress in [0, 1), the share of all batches that are done.
SCHEDULES: Final[Mapping[str, Callable[[float], float]]] = MappingProxyType(
    {"onecycle": _one_cycle, "cosine": _cosine, "step": _step, "constant": lambda progress: 1.0}
)


@dataclass(frozen=True)
class Settings:
    """All that decides the bits of a run on the CPU, for one version of PyTorch.

    One thread is as quick as two on networks this small, gives the same bits on any number of cores, and doesn't
    come to a crawl where others want the cores, too (eight times slower was seen).
    `learning_rate` 0 takes the one that suits the optimiser. `arguments` go to the network's constructor.
    Raises BnfoldError for values that can't train.
    """

    architecture: str
    data: str = "digits"
    epochs: int = 20
    batch_size: int = 64
    optimiser: str = "adamw"
    learning_rate: float = 0.0
    weight_decay: float = 1e-4
    schedule: str = "onecycle"
    bn_momentum: float = 0.1
    bn_eps: float = 1e-5
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, table in (("architecture", ARCHITECTURES), ("optimiser", OPTIMISERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in table:
                raise BnfoldError(f"{name} {getattr(self, name)!r}: not known; choose from {', '.join(table)}")
        for name, (good, wanted) in _RANGES.items():
            if not good(getattr(self, name)):
                raise BnfoldError(f"{name.replace('_', ' ')} {getattr(self, name)}: must be {wanted}")

    @property
    def peak_learning_rate(self) -> float:
        """Give the learning rate that the schedule scales."""
        return self.learning_rate or OPTIMISERS[self.optimiser]

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return {**asdict(self), "arguments": dict(self.arguments)}

    @classmethod
    def from_dict(cls, content: Any) -> "Settings":
        """Read plain data. Raises BnfoldError where it isn't what `to_dict` gives."""
        names = {entry.name for entry in fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            raise BnfoldError("the settings of the run are malformed; train anew")
        try:
            return cls(**content)
        except TypeError as error:
            raise BnfoldError("the settings of the run are malformed; train anew") from error


class Options(TypedDict, total=False):
    """The settings besides architecture and data, for the type checker."""

    epochs: int
    batch_size: int
    optimiser: str
    learning_rate: float
    weight_decay: float
    schedule: str
    bn_momentum: float
    bn_eps: float
    seed: int
    device: str
    threads: int
    arguments: Mapping[str, Any]


_RANGES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = MappingProxyType(
    {
        "epochs": (lambda value: value >= 1, "1 or more"),
        "batch_size": (lambda value: value >= 2, "2 or more: one image has no batch statistics"),
        "learning_rate": (lambda value: 0 <= value < math.inf, "a positive number (0: what suits the optimiser)"),
        "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
        "bn_momentum": (lambda value: 0 < value <= 1, "above 0 and at most 1 (the weight of the new batch)"),
        "bn_eps": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
        "threads": (lambda value: 1 <= value <= 1024, "from 1 to 1024"),
        "seed": (lambda value: 0 <= value < 2**63, "from 0 to 2**63 - 1"),
    }
)
