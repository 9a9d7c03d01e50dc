"""A graph that grows, and what a move may ask of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.why import Why
from tests.building import Builder

LARGEST = 400  # elements of a tensor, so that thousands of networks take seconds


@dataclass
class Growth(Builder):
    """positive_only: every gamma is. zeros: some gammas are zero. limits: some nodes can't be rewritten.

    Convolutions and BatchNorms are modules: each has a unit, so that it can be called again.
    """

    positive_only: bool = False
    zeros: bool = True
    limits: bool = True
    live: list[str] = field(default_factory=list)

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def any(self, *choices: object) -> object:
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self) -> str:
        """Give one of the latest tensors, seldom an old one."""
        recent = self.live if self.chance(0.15) else self.live[-3:]
        return recent[self.rng.integers(len(recent))]

    def rank(self, x: str) -> int:
        return len(self.shape(x))

    def weights(self, *shape: int, fan_in: int) -> str:
        return self.constant(f"w{len(self.constants)}", self.rng.normal(size=shape) / math.sqrt(fan_in))

    def vector(self, array: Floats) -> str:
        return self.constant(f"c{len(self.constants)}", array)

    def put(self, op: ops.Op, inputs: Sequence[str], shape: Sequence[int], **options: object) -> str | None:
        """Add a node, unless its output would be too large."""
        if math.prod(shape) > LARGEST or 0 in shape:
            return None
        if self.limits and "limits" not in options and self.chance(0.05):
            part = str(self.any("weight", "weight_in", "bias", "constants", "remove"))
            options["limits"] = {part: Why.PARAMETRIZED}
        y = self.node(self.name(type(op).__name__.lower()), op, list(inputs), tuple(shape), **options)
        self.live.append(y)
        return y

    def normed(self, x: str) -> str | None:
        """Put a BatchNorm on x."""
        return None if self.rank(x) < 2 else self._norm(x)

    def _norm(self, x: str) -> str | None:
        channels = self.shape(x)[1]
        gamma = self.rng.uniform(0.4, 2, channels)
        if not self.positive_only:
            gamma *= np.where(self.rng.random(channels) < 0.15, -1, 1)
        if self.zeros and self.chance(0.1):
            gamma *= np.where(self.rng.random(channels) < 0.3, 0, 1)
        beta, mean = self.rng.normal(size=channels), self.rng.normal(size=channels)
        variance = self.rng.uniform(0.4, 2, channels)
        if self.chance(0.1):
            mean = beta * np.sqrt(variance + 1e-5) / np.where(gamma == 0, 1, gamma)  # no shift, only a scale
        operands = [self.vector(array) for array in (gamma, beta, mean, variance)]
        if self.chance(0.1):
            operands[:2] = [self.any(operands[0], ""), ""]
        return self.put(
            ops.BatchNorm(1e-5), [x, *operands], self.shape(x), unit=self.name("unit") if self.chance(0.5) else ""
        )
