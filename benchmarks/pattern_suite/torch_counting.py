"""Counts what a PyTorch model computes from its inputs, whatever form the model has."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FREE = {
    "view", "_unsafe_view", "view_as", "reshape", "_reshape_alias", "flatten", "t", "transpose", "permute", "squeeze",
    "unsqueeze", "expand", "expand_as", "repeat", "slice", "select", "split", "split_with_sizes", "chunk", "unfold",
    "as_strided", "alias", "detach", "identity", "clone", "copy_", "to", "_to_copy", "contiguous", "lift_fresh",
    "lift_fresh_copy", "empty_like", "dropout", "native_dropout",
}  # fmt: skip
_ELEMENTWISE = {"add", "sub", "mul", "div", "rsub", "addcmul", "neg"}


class Counter(TorchDispatchMode):
    """Counts operators that depend on the inputs; `affines` are those with constants of more than one number.

    A chain of products and sums with constants is one affine; a BatchNorm is one by itself.
    """

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.alive: list[Any] = list(inputs)  # holds the tensors, so that no id is given twice
        self.computed = {id(tensor) for tensor in inputs}
        self.scaled: set[int] = set()
        self.operators = 0
        self.affines = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count it."""
        result = func(*args, **(kwargs or {}))
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(id(operand) in self.computed for operand in operands):
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self._count(func.overloadpacket.__name__, operands, outputs)
        return result

    def _count(self, name: str, operands: list[Tensor], outputs: list[Tensor]) -> None:
        self.alive += outputs
        self.computed |= {id(output) for output in outputs}
        base = name.rstrip("_")
        if base in _FREE or not any(output.is_floating_point() for output in outputs):
            if any(id(operand) in self.scaled for operand in operands):
                self.scaled |= {id(output) for output in outputs}
            return
        self.operators += 1
        constants = [operand for operand in operands if id(operand) not in self.computed]
        if "batch_norm" in base:
            self.affines += 1
        elif base in _ELEMENTWISE and any(constant.numel() > 1 for constant in constants):
            self.affines += not any(id(operand) in self.scaled for operand in operands)
            self.scaled |= {id(output) for output in outputs}


def count(run: Any, inputs: tuple[Tensor, ...]) -> tuple[int, int]:
    """Give (affines, operators) of one call."""
    inputs = tuple(tensor.clone() for tensor in inputs)
    with torch.no_grad(), Counter(inputs) as counter:
        run(*inputs)
    return counter.affines, counter.operators
