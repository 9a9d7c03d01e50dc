"""How to take back what a fold did to a module."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from bnfold.adapters.torch_old_weights import OldWeights


class Undo:
    """The steps back, in the order of the changes. Each is added before its change, and can be taken twice.

    weights: the old numbers of the parameters that changed.
    """

    def __init__(self) -> None:
        self.weights = OldWeights()
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[..., object], *args: object) -> None:
        """Take in a step back, and what to call it with."""
        self._steps.append(partial(step, *args))

    def room(self, parameter: Tensor) -> Tensor:
        """Give the memory for a parameter's new numbers, as `OldWeights.room` does."""
        memory = self.weights.room(parameter)
        self.add(self.weights.put_back, parameter)
        return memory

    def mark(self) -> int:
        """Give the state now, for `take_back`."""
        return len(self._steps)

    def take_back(self, mark: int = 0) -> None:
        """Return to a state from before. An interrupt waits until that is done."""
        interrupt = None
        while len(self._steps) > mark:
            try:
                self._steps[-1]()
                self._steps.pop()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
