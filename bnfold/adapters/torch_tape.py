"""A run as a tape: every call of a function of torch, what it was given and what it gave, without the numbers."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_origins import Origin
from bnfold.adapters.torch_trace import After, Before, Modules, Recorder

_NUMBERS = (int, float, complex, str, bool, type(None), type(...))
_KINDS = (torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor as a call saw it. number: which one it is. memory: a number for what it shows."""

    number: int
    memory: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device

    @property
    def form(self) -> "Form":
        """Tell its lengths, how they lie in memory, and its dtype."""
        return self.shape, self.stride, self.dtype


Form: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


@dataclass(frozen=True, eq=False)
class Call:
    """A call that gave tensors or wrote to its first one. args, kwargs: with `Seen` in the place of each tensor."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Seen, ...]
    writes: bool
    modules: Modules

    @cached_property
    def operands(self) -> Sequence[Seen]:
        """Its tensors, each once, in the order of the arguments."""
        return tuple({seen.number: seen for seen in seen_in((self.args, self.kwargs))}.values())

    @cached_property
    def frame(self) -> Hashable:
        """What it has in common with calls that differ in their tensors alone: its function and its other arguments."""
        places = {seen.number: place for place, seen in enumerate(self.operands)}
        return (self.func, self.writes, _key(self.args, places), _key(self.kwargs, places))


@dataclass(frozen=True, eq=False)
class Tape:
    """A run. inputs: by place among the leaves of the arguments. weights: by path. outputs: its tensors, in order."""

    calls: Sequence[Call]
    inputs: Mapping[int, Seen]
    weights: Mapping[str, Seen]
    outputs: Sequence[Seen]


def _key(item: Any, places: Mapping[int, int]) -> Hashable:
    match item:
        case Seen():
            return (Seen, places[item.number])
        case tuple() | list():
            return (type(item), *(_key(part, places) for part in item))
        case dict():
            return (dict, *((name, _key(part, places)) for name, part in item.items()))
        case slice():
            return (slice, *(_key(part, places) for part in (item.start, item.stop, item.step)))
        case float() | complex():
            return (type(item), repr(item))  # -0.0 equals 0.0
        case _:
            return (type(item), item)


def seen_in(item: Any) -> Iterator[Seen]:
    """Give every tensor among arguments."""
    match item:
        case Seen():
            yield item
        case tuple() | list():
            for part in item:
                yield from seen_in(part)
        case dict():
            yield from seen_in(tuple(item.values()))
        case slice():
            yield from seen_in((item.start, item.stop, item.step))


def filled(item: Any, tensor_of: Callable[[Seen], Any]) -> Any:
    """Put something else in the place of each `Seen`."""
    match item:
        case Seen():
            return tensor_of(item)
        case tuple() | list():
            return type(item)(filled(part, tensor_of) for part in item)
        case dict():
            return {key: filled(part, tensor_of) for key, part in item.items()}
        case slice():
            return slice(*(filled(part, tensor_of) for part in (item.start, item.stop, item.step)))
        case _:
            return item


class Taping(Recorder):
    """Records a run. tape: None where it was given, called with or gave something that a tape can't hold."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.tape: Tape | None = None
        self._calls: list[Call] = []
        self._lost = False
        self._weights = {origin.number: self._seen(tensor, origin) for tensor, origin in self.living_weights()}

    def run(self, module: nn.Module, given: Arguments) -> Any:
        """Run the forward and keep the tape."""
        leaves = pytree.tree_leaves((given.args, dict(given.kwargs)))
        tensors = {index: item for index, item in enumerate(leaves) if isinstance(item, Tensor)}
        inputs = {index: self._seen(item, self.keep_input(item, index)) for index, item in tensors.items()}
        weights = {origin.label: self._weights[origin.number] for origin in self.weights}
        result = super().run(module, given)
        outputs = [self._described(item) for item in pytree.tree_leaves(result)]
        if self.complete and not self._lost:
            kept = [item for item in outputs if isinstance(item, Seen)]
            self.tape = Tape(self._calls, inputs, weights, kept)
        return result

    def before(self, args: Any, kwargs: Any) -> "_Taped":
        """Describe the arguments as well."""
        noted = super().before(args, kwargs)
        return _Taped(noted.operands, noted.origins, noted.version, *map(self._described, (tuple(args), kwargs)))

    def after(self, func: Any, args: Any, result: Any, before: Before) -> After:
        """Keep a call that gave tensors or wrote to one."""
        after = super().after(func, args, result, before)
        if isinstance(before, _Taped) and (after.results or after.wrote):
            results = tuple(self._seen(tensor, origin) for tensor, origin in after.results)
            modules = self.stack[-1][1]
            self._calls.append(Call(func, before.args, before.kwargs, results, after.wrote, modules))
        return after

    def _described(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            origin = self.known_origin(item)
            return self._weights.get(origin.number) or self._seen(item, origin)
        if isinstance(item, (tuple, list)) and type(item) in (tuple, list, torch.Size):
            return (list if type(item) is list else tuple)(map(self._described, item))
        if type(item) is dict:
            return {key: self._described(part) for key, part in item.items()}
        if isinstance(item, slice):
            return slice(*map(self._described, (item.start, item.stop, item.step)))
        self._lost = self._lost or not (type(item) in _NUMBERS or isinstance(item, _KINDS))
        return item

    def _seen(self, item: Tensor, origin: Origin) -> Seen:
        plain = type(item) in (Tensor, nn.Parameter) and item.layout is torch.strided
        if not plain or item.is_quantized or item.is_conj() or item.is_neg() or item.is_inference():
            self._lost = True
            return Seen(origin.number, origin.memory, (), (), 0, item.dtype, item.device)
        offset = int(item.storage_offset())
        shape, stride = tuple(item.shape), item.stride()
        return Seen(origin.number, origin.memory, shape, stride, offset, item.dtype, item.device)


@dataclass(frozen=True, slots=True)
class _Taped(Before):
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
