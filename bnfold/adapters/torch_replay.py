"""A tape played at other sizes: the lengths of its tensors, without the tensors."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments, quietly
from bnfold.adapters.torch_tape import Call, Form, Tape, filled


class Replay:
    """The calls of a run whose forward asks for no length: at any size, these are the calls that it makes."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        frames: dict[Hashable, int] = {}
        self.frames = [frames.setdefault(call.frame, len(frames)) for call in tape.calls]
        self.known: dict[tuple[int, tuple[Form, ...]], Sequence[Form]] = {}

    def takes(self, given: Arguments) -> bool:
        """Whether every function takes its tensors, and gives as many; a forward could react to one that doesn't."""
        leaves = pytree.tree_leaves((given.args, dict(given.kwargs)))
        forms = {seen.number: seen.form for seen in self.tape.weights.values()}
        forms.update((seen.number, _form(leaves[place])) for place, seen in self.tape.inputs.items())
        try:
            pairs = zip(self.frames, self.tape.calls, strict=True)
            with quietly(), torch.no_grad(), torch.device("meta"):
                return all(self._plays(frame, call, forms) for frame, call in pairs)
        except Exception:  # noqa: BLE001 - what a function raises, the forward may expect: then only it can tell
            return False

    def _plays(self, frame: int, call: Call, forms: dict[int, Form]) -> bool:
        key = frame, tuple(forms[seen.number] for seen in call.operands)
        if key not in self.known:
            self.known[key] = _results(call, key[1])
        results = self.known[key]
        forms.update((seen.number, form) for seen, form in zip(call.results, results, strict=False))
        return len(results) == len(call.results)


def _results(call: Call, forms: Sequence[Form]) -> list[Form]:
    """Ask a function, on tensors without numbers."""
    tensors = {
        seen.number: torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        for seen, (shape, stride, dtype) in zip(call.operands, forms, strict=True)
    }
    args, kwargs = filled((call.args, call.kwargs), lambda seen: tensors[seen.number])
    return [_form(item) for item in pytree.tree_leaves(call.func(*args, **kwargs)) if isinstance(item, Tensor)]


def _form(item: Tensor) -> Form:
    return tuple(item.shape), item.stride(), item.dtype
