"""The path that a forward takes, on tensors without numbers: a tenth of the cost of an export, for comparing paths.

Equal traces are equal paths. Traces that differ may still be the same graph (a length that follows from the input's
size): whoever compares falls back to captures then.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments, quietly
from bnfold.adapters.torch_indexing import Part, parts_in
from bnfold.adapters.torch_origins import Origin, Origins, version_of
from bnfold.adapters.torch_restoring import holders, unchanged
from bnfold.adapters.torch_shapes import KnownShapes, leaves_of
from bnfold.adapters.torch_steps import Step, Steps, part_of

# What tells nothing of lengths and numbers, and what tells lengths alone.
_KINDS = frozenset(
    {"dim", "ndim", "ndimension", "dtype", "device", "layout", "requires_grad", "element_size", "itemsize", "__hash__"}
    | {"is_floating_point", "is_complex", "is_signed", "is_sparse", "is_quantized", "is_mkldnn", "is_nested", "is_cuda"}
)
_LENGTHS = frozenset(
    {"shape", "size", "numel", "nelement", "nbytes", "stride", "storage_offset", "is_contiguous", "__len__"}
)
_FLAGS = ("_is_compiling_flag", "_is_exporting_flag")
_PLAIN = (int, float, complex, np.generic, str, bool, type(None), type(...), torch.dtype)
_WATCHED = threading.RLock()  # the class of all modules is watched by one thread at a time
Modules: TypeAlias = Mapping[str, tuple[str, str]]  # the calls of modules around a call, as torch.export tells them


def trace(module: nn.Module, given: Arguments, *, exporting: bool = False) -> Steps | None:
    """Follow the forward on tensors without numbers; None where it can't run on such. The module stays as it is.

    exporting: let it know that it is being exported, as torch.export does.
    """
    with quietly(), numberless(module) as seen:
        args, kwargs = pytree.tree_map(seen.of, (given.args, dict(given.kwargs)))
        try:
            with _as_export() if exporting else contextlib.nullcontext():
                return recorded(module, Arguments(args, kwargs), KnownShapes())[0]
        except Exception:  # noqa: BLE001 - whatever the forward raises, it has no trace
            return None


class Numberless:
    """Tensors of the same shapes on the meta device; the same one for the same one."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, item: Any) -> Any:
        """Give what stands for a tensor, and anything else as it is."""
        if not isinstance(item, Tensor):
            return item
        if id(item) not in self._seen:
            empty = torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
            kept = isinstance(item, nn.Parameter)
            other = nn.Parameter(empty, requires_grad=item.requires_grad) if kept else empty
            self._seen[id(item)] = item, other
        return self._seen[id(item)][1]


@contextlib.contextmanager
def numberless(module: nn.Module) -> Iterator[Numberless]:
    """Let a module hold tensors without numbers, and make such of whatever is made of nothing."""
    seen = Numberless()
    with unchanged(module, numbers=False), torch.no_grad():
        for holder in holders(module):
            holder.update({name: seen.of(item) for name, item in holder.items() if isinstance(item, Tensor)})
        with torch.device("meta"):
            yield seen


@contextlib.contextmanager
def _as_export() -> Iterator[None]:
    before = {name: getattr(torch.compiler, name) for name in _FLAGS}
    try:
        for name in _FLAGS:
            setattr(torch.compiler, name, True)
        yield
    finally:
        for name, flag in before.items():
            setattr(torch.compiler, name, flag)


def recorded(module: nn.Module, given: Arguments, known: KnownShapes | None = None) -> tuple[Steps, Any]:
    """Run the forward as it is, and give its steps and its result. known: for tensors without numbers."""
    recorder = Recorder(module, known)
    result = recorder.run(module, given)
    return tuple(recorder.steps), result


class Recorder(TorchFunctionMode):
    """Notes every call of a function of torch.

    complete: every tensor that a call was given came from another call, an input or a weight, nothing but calls wrote
    to it, and no number was asked for. asked: somebody looked at the length of an axis of what isn't a weight.
    """

    def __init__(self, module: nn.Module, known: KnownShapes | None = None) -> None:
        super().__init__()
        self.known = known
        self.steps: list[Step] = []
        self.complete = True
        self.asked = False
        self.origins = Origins()
        self.writes: dict[int, int] = {}  # by memory: how often it was written to
        self.paths = {id(part): path for path, part in module.named_modules()}
        self.stack: list[tuple[str, Modules]] = [("", {})]
        self.calls: dict[str, int] = {}
        self.weights = [self.origins.keep(tensor, name, is_weight=True) for name, tensor in named_tensors(module)]
        self._held = {origin.memory for origin in self.weights}

    def run(self, module: nn.Module, given: Arguments) -> Any:
        """Run the forward; its outputs are the last step."""
        for index, item in enumerate(pytree.tree_leaves((given.args, dict(given.kwargs)))):
            if isinstance(item, Tensor):
                self.keep_input(item, index)
        with self.watching(), self:
            result = module(*given.args, **given.kwargs)
        outputs = [self._text(item, self._origin(item)) for item in pytree.tree_leaves(result)]
        self.steps.append(Step("", "output", tuple(outputs), ""))
        unwritten = [version_of(tensor) == origin.version for tensor, origin in self.living_weights()]
        self.complete = self.complete and len(unwritten) == len(self.weights) and all(unwritten)
        return result

    def keep_input(self, item: Tensor, index: int) -> Origin:
        """Take in an input, unless it is known."""
        return self.origins.of(item) or self.origins.keep(item, f"input {index}")

    def living_weights(self) -> Iterator[tuple[Tensor, Origin]]:
        """Give the weights that are still there."""
        pairs = ((origin.tensor(), origin) for origin in self.weights)
        return ((tensor, origin) for tensor, origin in pairs if tensor is not None)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Know in which module each call of this thread is made, its own hooks included."""
        own = threading.get_ident()

        def call(part: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != own:
                return plain(part, *args, **kwargs)
            self._enter(part)
            try:
                return plain(part, *args, **kwargs)
            finally:
                self.stack.pop()

        with _WATCHED:
            plain = nn.Module.__call__
            nn.Module.__call__ = call  # type: ignore[method-assign]
            try:
                yield
            finally:
                nn.Module.__call__ = plain  # type: ignore[method-assign]

    def _enter(self, part: nn.Module) -> None:
        path, around = self.paths.get(id(part)), self.stack[-1][1]
        if path is None:
            self.stack.append(("", around))
            return
        count = self.calls[path] = self.calls.get(path, -1) + 1
        self.stack.append((path, {**around, f"{path}@{count}": (path, type(part).__name__)}))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what goes in, and call what comes out by the number of the step."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            before = self.before(args, kwargs)
        result = func(*args, **kwargs) if self.known is None else self.known.call(func, args, kwargs)
        with torch._C.DisableTorchFunction():
            self.after(func, args, result, before)
        return result

    def before(self, args: Any, kwargs: Any) -> "Before":
        """Note what goes into a call."""
        named = [item for pair in sorted(kwargs.items()) if pair[0] != "inplace" for item in pair]
        leaves = leaves_of((*parts_in(args), *named))
        origins = [self._origin(item) for item in leaves]
        operands = tuple(map(self._text, leaves, origins))
        return Before(operands, [origin for origin in origins if origin is not None], _first_version(args))

    def after(self, func: Any, args: Any, result: Any, before: "Before") -> "After":
        """Note what came out of a call."""
        leaves = leaves_of((result,))
        made = [item for item in leaves if isinstance(item, Tensor)]
        wrote = _first_version(args) != before.version
        told = sum(item is not None for item in leaves) > len(made)
        if told or not (made or wrote):
            self._told(_name(func), before.origins)
        if not made and not wrote:
            return After((), False)
        label = str(len(self.steps))
        self.steps.append(Step(self.stack[-1][0], _name(func), before.operands, label))
        near = [*before.origins]
        for index, item in enumerate(made):
            near.append(self.origins.add(item, f"{label}.{index}", near))
        if wrote:
            self._wrote(args[0])
        return After(tuple(zip(made, near[len(before.origins) :], strict=True)), wrote)

    def _told(self, name: str, operands: Sequence[Origin]) -> None:
        """Judge a call that gave something else than tensors."""
        if name in _LENGTHS:
            self.asked = self.asked or not all(origin.is_weight for origin in operands)
        elif name not in _KINDS and not (name == "_assert" and not operands):
            self.complete = False

    def _wrote(self, tensor: Tensor) -> None:
        memory = self.known_origin(tensor).memory
        self.writes[memory] = self.writes.get(memory, 0) + 1
        self.origins.written(memory)
        self.complete = self.complete and memory not in self._held

    def _origin(self, item: Any) -> Origin | None:
        return self.known_origin(item) if isinstance(item, Tensor) else None

    def known_origin(self, tensor: Tensor) -> Origin:
        """Say where a tensor comes from; one that nothing here made is a constant."""
        found = self.origins.of(tensor)
        if found is None:
            self.complete = False
            return self.origins.add(tensor, "constant", ())
        if found.version != version_of(tensor):
            self.complete = False
        return found

    def _text(self, item: Any, origin: Origin | None) -> str:
        """Tell an operand: a tensor by its origin, and by how often its memory was written to since."""
        if origin is not None:
            return f"{origin.label}@{self.writes.get(origin.memory, 0)}"
        match item:
            case Part(bounds, axis, length):
                return part_of(":".join(self._text(bound, self._origin(bound)) for bound in bounds), axis, length)
            case np.ndarray():
                return repr((item.dtype.str, item.shape, sha256(item.tobytes()).digest()))
        return repr(item) if isinstance(item, _PLAIN) else ""


@dataclass(frozen=True, slots=True)
class Before:
    """What went into a call: the texts of its operands, where its tensors come from, the first one's version."""

    operands: tuple[str, ...]
    origins: Sequence[Origin]
    version: int


@dataclass(frozen=True, slots=True)
class After:
    """What came out of a call: tensors with where they come from; and whether it wrote to its first argument."""

    results: tuple[tuple[Tensor, Origin], ...]
    wrote: bool


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Give every tensor of a module by its path; the first path of each."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        for name, item in (*part._parameters.items(), *part._buffers.items(), *vars(part).items()):
            if isinstance(item, Tensor) and id(item) not in seen:
                seen.add(id(item))
                yield (f"{path}.{name}" if path else name), item


def _first_version(args: Any) -> int:
    first = args[0] if args else None
    return version_of(first) if isinstance(first, Tensor) else 0


def _name(func: Any) -> str:
    """`relu_` and `relu` are the same step: what is written to shows in the operands of those that read it."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name if name.startswith("__") else name.removesuffix("_")
