"""How to take back what a fold did to a module."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from bnfold.adapters.torch_old_weights import OldWeights

Mark: TypeAlias = tuple[int, int]


class Undo:
    """The old weights, and the steps back from every other change, in the order of the changes.

    A step is added before its change, and can be taken twice.
    """

    def __init__(self) -> None:
        self.weights = OldWeights()
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[..., object], *args: object) -> None:
        """Take in a step back, and what to call it with."""
        self._steps.append(partial(step, *args))

    def mark(self) -> Mark:
        """Give the state now, for `take_back`."""
        return len(self.weights), len(self._steps)

    def take_back(self, mark: Mark = (0, 0)) -> None:
        """Return to a state from before. An interrupt waits until that is done."""
        interrupt = None
        while (len(self.weights), len(self._steps)) != mark:
            try:
                self._go_back(*mark)
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _go_back(self, weights: int, steps: int) -> None:
        self.weights.put_back(weights)
        while len(self._steps) > steps:
            self._steps[-1]()
            self._steps.pop()
