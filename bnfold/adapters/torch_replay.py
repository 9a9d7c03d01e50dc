"""A tape played at other sizes, on tensors without numbers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments, quietly
from bnfold.adapters.torch_shapes import KnownShapes
from bnfold.adapters.torch_tape import Seen, Tape, filled
from bnfold.adapters.torch_trace import Numberless, named_tensors


class Replay:
    """The calls of a run whose forward asks for no length: at any size, these are the calls that it makes."""

    def __init__(self, tape: Tape, module: nn.Module) -> None:
        self.tape = tape
        self.known = KnownShapes()
        self.numberless = Numberless()
        weights = {path: self.numberless.of(item) for path, item in named_tensors(module)}
        self.weights = {seen.number: weights[path] for path, seen in tape.weights.items()}

    def takes(self, given: Arguments) -> bool:
        """Whether every function takes its tensors, and gives as many; a forward could react to one that doesn't."""
        try:
            with quietly(), torch.no_grad(), torch.device("meta"):
                return self._play(given)
        except Exception:  # noqa: BLE001 - what a function raises, the forward may expect: then only it can tell
            return False

    def _play(self, given: Arguments) -> bool:
        tensors = dict(self.weights)
        leaves = pytree.tree_leaves((given.args, dict(given.kwargs)))
        tensors.update((seen.number, self.numberless.of(leaves[place])) for place, seen in self.tape.inputs.items())

        def tensor_of(seen: Seen) -> Any:
            return tensors[seen.number]

        for call in self.tape.calls:
            args, kwargs = filled((call.args, call.kwargs), tensor_of)
            result = self.known.call(call.func, args, kwargs)
            made = [item for item in pytree.tree_leaves(result) if isinstance(item, Tensor)]
            if len(made) != len(call.results):
                return False
            tensors.update((seen.number, item) for seen, item in zip(call.results, made, strict=True))
        return True
