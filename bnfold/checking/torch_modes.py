"""What every mode of a check has in common: how it meets operators that take functions."""

import contextlib
from abc import abstractmethod
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from bnfold.errors import UnverifiedError


def as_written() -> contextlib.AbstractContextManager[Any]:
    """Let compiled functions run as they are written, since no mode sees into them; torch.cond is one by itself."""
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that a module runs, those in the branches of a torch.cond too; `called` is told of each.

    Raises `UnverifiedError` for any other operator that takes functions (while_loop, map, scan).
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._branches = 0  # that are running, one in another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `called`, or the branch that a torch.cond takes."""
        if isinstance(func, HigherOrderOperator):
            return self._branch(func, args)
        if self._branches:  # below autograd, where operators made of others come whole
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        return self.called(func, args, kwargs or {})

    def _branch(self, func: HigherOrderOperator, args: tuple[Any, ...]) -> Any:
        if func is not torch.ops.higher_order.cond:
            raise UnverifiedError(
                f"what torch.{func._name} runs can't be followed in float64, torch.cond alone can; check the module's"
                " ONNX file, or the module without it"
            )
        predicate, true, false, operands = args
        self._branches += 1
        try:
            with self:
                return (true if predicate else false)(*operands)
        finally:
            self._branches -= 1

    @abstractmethod
    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `func` and give what it gives."""
