"""The path that a forward takes, on tensors without numbers: a tenth of the cost of an export, for comparing paths.

Equal traces are equal paths. Traces that differ may still be the same graph (a length that follows from the input's
size): whoever compares falls back to captures then.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import Arguments, quietly
from bnfold.adapters.torch_restoring import holders, unchanged
from bnfold.adapters.torch_shapes import KnownShapes, leaves_of

_SIZED = frozenset({"view", "reshape", "expand", "repeat", "unflatten", "interpolate", "upsample", "arange", "zeros"})


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a function of torch.

    path: of the innermost module around it. operands: tensors by where they come from, the rest by its text.
    """

    path: str
    name: str
    operands: tuple[str, ...]
    result: str


def trace(module: nn.Module, given: Arguments) -> tuple[Step, ...] | None:
    """Follow the forward on tensors without numbers; None where it can't run on such. The module stays as it is."""
    seen: dict[int, Tensor] = {}
    args, kwargs = pytree.tree_map(lambda item: _numberless(item, seen), (given.args, dict(given.kwargs)))
    with quietly(), unchanged(module, numbers=False):
        for holder in holders(module):
            for name, item in list(holder.items()):
                if isinstance(item, Tensor):
                    holder[name] = _numberless(item, seen)
        try:
            with torch.no_grad(), torch.device("meta"):
                return recorded(module, Arguments(args, kwargs), KnownShapes())[0]
        except Exception:  # noqa: BLE001 - whatever the forward raises, it has no trace
            return None


def recorded(module: nn.Module, given: Arguments, known: KnownShapes | None = None) -> tuple[tuple[Step, ...], Any]:
    """Run the forward as it is, and give its steps and its result. known: for tensors without numbers."""
    recorder = _Recorder(module, known)
    for index, item in enumerate(pytree.tree_leaves((given.args, dict(given.kwargs)))):
        if isinstance(item, Tensor):
            recorder.labels[id(item)] = f"input {index}"
            recorder.alive.append(item)
    with recorder.watching(), recorder:
        result = module(*given.args, **given.kwargs)
    outputs = tuple(recorder.text(item) for item in pytree.tree_leaves(result))
    return (*recorder.steps, Step("", "output", outputs, "")), result


def _numberless(item: Any, seen: dict[int, Tensor]) -> Any:
    """Give a tensor of the same shape on the meta device; the same one for the same one."""
    if not isinstance(item, Tensor):
        return item
    if id(item) not in seen:
        empty = torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
        kept = isinstance(item, nn.Parameter)
        seen[id(item)] = nn.Parameter(empty, requires_grad=item.requires_grad) if kept else empty
    return seen[id(item)]


class _Recorder(TorchFunctionMode):
    def __init__(self, module: nn.Module, known: KnownShapes | None) -> None:
        super().__init__()
        self.known = known
        self.steps: list[Step] = []
        self.alive: list[Tensor] = []  # an id or a storage's address is used again once its owner is gone
        self.versions: dict[int, int] = {}
        self.paths = {id(part): path for path, part in module.named_modules()}
        self.stack: list[str] = []
        self.labels = {id(tensor): name for name, tensor in _named(module)}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Know in which module each call is made."""

        def enter(part: nn.Module, args: Any) -> None:
            self.stack.append(self.paths.get(id(part), ""))

        def leave(part: nn.Module, args: Any, result: Any) -> None:
            self.stack.pop()

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what goes in, and call what comes out by the number of the step."""
        kwargs = kwargs or {}
        named = [item for pair in sorted(kwargs.items()) if pair[0] != "inplace" for item in pair]
        with torch._C.DisableTorchFunction():
            operands = tuple(self.text(item) for item in leaves_of(args, named))
            writes = _version(args)
        result = func(*args, **kwargs) if self.known is None else self.known.call(func, args, kwargs)
        with torch._C.DisableTorchFunction():
            self._note(func, args, operands, result, writes)
        return result

    def _note(self, func: Any, args: Any, operands: tuple[str, ...], result: Any, writes: int) -> None:
        made = [item for item in leaves_of((result,), ()) if isinstance(item, Tensor)]
        changed = _version(args) != writes
        if made or changed:
            label = str(len(self.steps))
            self.steps.append(Step(self.stack[-1] if self.stack else "", _name(func), operands, label))
            for index, item in enumerate(made):
                self.labels[id(item)] = f"{label}.{index}"
                self.alive.append(item)
            if changed:
                memory = _memory(args[0])
                self.versions[memory] = self.versions.get(memory, 0) + 1

    def text(self, item: Any) -> str:
        """Tell an operand: a tensor by its origin, and by how often its memory was written to since."""
        if not isinstance(item, Tensor):
            return repr(item) if isinstance(item, (int, float, str, bool, type(None), torch.dtype)) else ""
        label = self.labels.get(id(item), "constant")
        return f"{label}@{self.versions.get(_memory(item), 0)}"


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the module by its path; the first path of each."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        for name, item in (*part._parameters.items(), *part._buffers.items(), *vars(part).items()):
            if isinstance(item, Tensor) and id(item) not in seen:
                seen.add(id(item))
                yield (f"{path}.{name}" if path else name), item


def _version(args: Any) -> int:
    first = args[0] if args else None
    return first._version if isinstance(first, Tensor) and not first.is_inference() else 0


def _memory(tensor: Tensor) -> int:
    if not torch._C._has_storage(tensor):  # sparse, opaque, or inside of a transform
        return id(tensor)
    memory: int = tensor.untyped_storage()._cdata
    return memory


def _name(func: Any) -> str:
    """`relu_` and `relu` are the same step: what is written to shows in the operands of those that read it."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name if name.startswith("__") else name.removesuffix("_")


Line: TypeAlias = tuple[str, ...]


def same_path(first: Sequence[Step], second: Sequence[Step]) -> bool:
    """Whether two traces of one module, at two sizes, are the same but for lengths given to views."""
    return [_without_lengths(step) for step in first] == [_without_lengths(step) for step in second]


def _without_lengths(step: Step) -> Line:
    sized = step.name in _SIZED
    return (step.name, *(text for text in step.operands if not (sized and text.lstrip("-").isdigit())))


def is_as_planned(before: Sequence[Step], after: Sequence[Step], replaced: Collection[str], biases: Set[str]) -> bool:
    """Whether a trace is what another one becomes without the own code of some submodules.

    replaced: their paths; what their code is given takes the place of what it gives. biases: new parameters, which
    stand where there was None.
    """
    wanted, got = _lines(before, replaced), _lines(after, ())
    allowed = {f"{path}@0" for path in biases}
    return len(wanted) == len(got) and all(
        len(one) == len(other)
        and all(a == b or (a == "None" and b in allowed) for a, b in zip(one, other, strict=True))
        for one, other in zip(wanted, got, strict=True)
    )


def _lines(steps: Sequence[Step], replaced: Collection[str]) -> list[Line]:
    """Write the steps with their operands numbered anew, less those of `replaced` submodules."""
    origin: dict[str, str] = {}  # by step, as it was numbered: what it is now
    given: dict[str, str] = {}  # by submodule: what its code is given first
    lines: list[Line] = []
    for step in steps:
        operands = [_resolved(text, origin) for text in step.operands]
        if step.path in replaced and step.name != "output":
            moving = [text for text in operands if text.startswith(_COMPUTED)]
            first = given.get(step.path) or (moving[0].rpartition("@")[0] if moving else "constant")
            given[step.path] = origin[step.result] = first
        else:
            origin[step.result] = f"step {len(lines)}"
            lines.append((step.name, *operands))
    return lines


_COMPUTED = ("step ", "input ")


def _resolved(text: str, origin: Mapping[str, str]) -> str:
    label, at, version = text.rpartition("@")
    step, _, index = label.rpartition(".")
    if not at or step not in origin:
        return text
    return f"{origin[step]}{'' if index == '0' else f' output {index}'}@{version}"
