"""Every float value of a run in float64, with its form on an earlier one where only linear operators lie between.

A module and an ONNX model (by way of its executor) are traced alike: what is seen are torch's functions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bnfold.checking.linear_forms import Form, identity
from bnfold.checking.measures import Array
from bnfold.checking.torch_linear_calls import Affine, Linear, Padded, Sum, recognised

_LOOKS = frozenset(
    {"size", "dim", "numel", "is_floating_point", "is_contiguous", "stride", "__len__", "item", "tolist"}
)
_MOVES = frozenset(
    {"__get__", "__getitem__", "T", "broadcast_to", "chunk", "clone", "contiguous", "detach", "double", "expand",
     "expand_as", "flatten", "float", "movedim", "moveaxis", "narrow", "permute", "reshape", "reshape_as", "select",
     "split", "squeeze", "swapaxes", "t", "to", "transpose", "type", "type_as", "unflatten", "unsqueeze", "view",
     "view_as"}
)  # fmt: skip


@dataclass(eq=False)
class Traced:
    """One value. array: as it was when it was made. layer: the ONNX node's name or the module's path.

    read: the values that it was computed from.
    """

    index: int
    tensor: Tensor
    shape: tuple[int, ...]
    array: Array
    form: Form | None = None
    padded: tuple[int, tuple[tuple[int, int], ...]] | None = None  # the value before the padding, (begin, end) by axis
    layer: str = ""
    read: tuple[int, ...] = ()
    settled: bool = False
    source: tuple[int, Array, Array] | None = None  # it is scale * that value + shift by channel
    ends: bool = False  # something other than an affine reads it, so a chain of them ends here


@dataclass
class Trace:
    """The values of one run, in order."""

    values: list[Traced] = field(default_factory=list)

    def name(self, indices: tuple[int, ...]) -> str:
        """Name what made some values."""
        return " + ".join(dict.fromkeys(self.values[i].layer for i in indices))


class Tracer(TorchFunctionMode):
    """Records a run. `before_read` and `made` are for who follows another run with this one."""

    def __init__(self, dtypes: Mapping[int, str], default: str) -> None:
        super().__init__()
        self.trace = Trace()
        self.where: Callable[[], str] = lambda: ""
        self._ids: dict[int, int] = {}
        self._kept: list[Tensor] = []  # so that no id is given twice
        self._dtypes, self._default = dict(dtypes), default
        self._computed: set[int] = set()  # constants that the model's own arithmetic made of its parameters
        self.arithmetic = True  # whether the functions that are seen are the model's own

    def feed(self, tensors: list[Tensor]) -> None:
        """Take the model's inputs as the first values."""
        for tensor in tensors:
            self.made(self._add(tensor, None, ()))

    def before_read(self, value: Traced) -> None:
        """Hear that something other than an affine reads a value that has a form."""

    def made(self, value: Traced) -> None:
        """Hear of a value without a form."""

    def appeared(self, value: Traced) -> None:
        """Hear of any value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` and take in what it gives."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _LOOKS:
            return func(*args, **kwargs)
        operands = list(_tensors((args, kwargs)))
        read = tuple(dict.fromkeys(self._ids[id(tensor)] for tensor in operands if id(tensor) in self._ids))
        if not read:
            return self._constant(func(*args, **kwargs), operands, moved=name in _MOVES)
        if name == "__get__":  # .shape, .T and the like: most give no tensor
            result = func(*args, **kwargs)
            if not isinstance(result, Tensor):
                return result
        call = recognised(name, args, kwargs, lambda tensor: id(tensor) in self._ids)
        form, padded = self._form(call)
        if form is not None and any(id(tensor) in self._computed for tensor in operands):
            form = replace(form, computed=True)
        for index in read if form is None or not isinstance(call, Affine) else ():
            self.trace.values[index].ends = True
        if form is None and padded is None:
            for index in read:
                self.read(self.trace.values[index])
        result = func(*args, **kwargs)
        for part in _tensors(result):
            value = self._add(part, form, read)
            value.padded = padded
            if form is not None and isinstance(call, Affine):
                shape = form.bias.shape
                value.source = (read[0], np.broadcast_to(call.scale, shape), np.broadcast_to(call.shift, shape))
            self.appeared(value)
            if form is None:
                self.made(value)
        return result

    def read(self, value: Traced) -> None:
        """Let something other than an affine read a value."""
        if value.form is not None and not value.settled:
            self.before_read(value)
            value.settled = True

    def computes(self, tensors: Iterable[Tensor]) -> None:
        """Hear of constants that the model's own arithmetic has made."""
        made = [tensor for tensor in tensors if id(tensor) not in self._ids]
        self._kept += made
        self._computed.update(id(tensor) for tensor in made)

    def _constant(self, result: Any, operands: list[Tensor], *, moved: bool) -> Any:
        known = [self._dtypes[id(tensor)] for tensor in operands if id(tensor) in self._dtypes]
        for part in _tensors(result) if known else ():
            self._dtypes[id(part)] = known[0]
            self._kept.append(part)
            if any(id(tensor) in self._computed for tensor in operands) or (self.arithmetic and not moved):
                self._computed.add(id(part))
        return result

    def _add(self, tensor: Tensor, form: Form | None, read: tuple[int, ...]) -> Traced:
        index = len(self.trace.values)
        array = np.array(tensor.detach().double().numpy()) if tensor.is_floating_point() else np.zeros(0)
        value = Traced(index, tensor, tuple(tensor.shape), array, form, layer=self.where(), read=read)
        self.trace.values.append(value)
        self._ids[id(tensor)] = index
        return value

    def value_of(self, tensor: Tensor) -> Traced | None:
        """The value that a tensor holds; None for one that depends on no input."""
        index = self._ids.get(id(tensor))
        return None if index is None else self.trace.values[index]

    def _value(self, tensor: Tensor) -> Traced:
        return self.trace.values[self._ids[id(tensor)]]

    def _form(self, call: object) -> tuple[Form | None, tuple[int, tuple[tuple[int, int], ...]] | None]:
        index = len(self.trace.values)
        match call:
            case Linear():
                return self._linear(call, index), None
            case Affine(x):
                return self._affine(self._value(x), call, index), None
            case Sum(x, y, sign):
                return self._sum(self._value(x), self._value(y), sign), None
            case Padded(x, pads):
                cut = self._cut(self._value(x), pads)
                return (cut, None) if cut is not None else (None, self._pad(self._value(x), pads))
            case _:
                return None, None

    def _linear(self, call: Linear, index: int) -> Form:
        x = self._value(call.x)
        root = x.index
        window = call.window
        if x.padded is not None and not window.transposed:
            root, pads = x.padded
            begins = tuple(a + b for a, (b, _) in zip(window.begins, pads, strict=True))
            ends = tuple(a + b for a, (_, b) in zip(window.ends, pads, strict=True))
            window = type(window)(window.stride, window.dilation, begins, ends)
        self.read(self.trace.values[root])
        dtype = self._dtypes.get(id(call.parameter), self._default)
        return call.form(root, index, window, dtype)

    def _affine(self, x: Traced, call: Affine, index: int) -> Form | None:
        rank, axis = len(x.shape), call.axis
        # A pooling is a kernel only where it is a branch of a sum: one tool's may be another's Reduce.
        pooled = x.form is not None and all(term.fixed for term in x.form.terms)
        if x.form is not None and not pooled and (axis is None or axis == x.form.axis):
            return x.form.affine(call.scale, call.shift, call.size)
        axis = (1 if rank > 2 else rank - 1) if axis is None else axis
        if rank < 1 or axis not in (1, rank - 1):
            return None
        self.read(x)
        spatial = rank - 2 if axis == 1 else 0
        return identity(x.index, axis, x.shape[axis], spatial, index).affine(call.scale, call.shift, call.size)

    def _sum(self, x: Traced, y: Traced, sign: float) -> Form | None:
        """Two branches on one root; which of them have to be read apart is left to `splits`."""
        for root in dict.fromkeys([*_roots(x), *_roots(y)]):
            forms = [value.form for value in (x, y) if value.index != root]
            if not forms or any(form is None or form.root != root for form in forms):
                continue
            first = forms[0]
            assert first is not None
            a, b = (self._self(root, first.axis) if v.index == root else v.form for v in (x, y))
            assert a is not None
            assert b is not None
            if a.axis == b.axis and a.bias.shape == b.bias.shape:
                joint = a.plus(b, sign)
                return None if self.splits(x, y, joint) else joint
        return None

    def splits(self, x: Traced, y: Traced, joint: Form) -> bool:
        """Whether the operands of a sum are looked at one by one and not as `joint`, the form of both."""
        return False

    def _self(self, root: int, axis: int) -> Form:
        shape = self.trace.values[root].shape
        return identity(root, axis, shape[axis], len(shape) - 2 if axis == 1 else 0, root)

    def _cut(self, x: Traced, pads: tuple[tuple[int, int], ...]) -> Form | None:
        """What a transposed convolution's own padding cuts off, done by a Pad behind it."""
        if x.form is None or len(x.form.terms) != 1 or np.any(x.form.bias):
            return None
        (term,) = x.form.terms
        if not term.window.transposed:
            return None
        begins = tuple(a - b for a, (b, _) in zip(term.window.begins, pads, strict=True))
        ends = tuple(a - b for a, (_, b) in zip(term.window.ends, pads, strict=True))
        window = type(term.window)(term.window.stride, term.window.dilation, begins, ends, True)
        return replace(x.form, terms=(replace(term, window=window),))

    def _pad(self, x: Traced, pads: tuple[tuple[int, int], ...]) -> tuple[int, tuple[tuple[int, int], ...]]:
        self.read(x)
        return x.index, pads


def _roots(value: Traced) -> list[int]:
    return [value.index, *([value.form.root] if value.form is not None else [])]


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, (tuple, list)):
        for item in part:
            yield from _tensors(item)
    elif isinstance(part, dict):
        for item in part.values():
            yield from _tensors(item)
