"""What of an exported program is known before the run: weights, and what is computed from weights alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from bnfold.adapters.torch_call import length, shape_of
from bnfold.adapters.torch_names import Paths, value_name
from bnfold.adapters.torch_nodes import changes_first
from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Constant

_ATEN = torch.ops.aten
_CASTS = (_ATEN.to, _ATEN._to_copy, _ATEN.type_as)


class Constants:
    """The constants of a graph that is being read.

    held: the module's tensors, by path. known: placeholders of weights, by their path. fixed: every node that is known
    before the run. found: the graph's constants by name. tensors, chained: as in `torch_reading.Reading`.
    """

    def __init__(self, held: Mapping[str, Tensor], paths: Paths) -> None:
        self.held = held
        self.paths = paths
        self.known: dict[fx.Node, str] = {}
        self.fixed: set[fx.Node] = set()
        self.found: dict[str, Constant] = {}
        self.tensors: dict[str, Tensor] = {}
        self.chained: set[str] = set()

    def add(self, placeholder: fx.Node, path: str) -> None:
        """Take a placeholder for the weight at this path."""
        self.known[placeholder] = path
        self.fixed.add(placeholder)

    def takes(self, node: fx.Node) -> bool:
        """Whether a call is known before the run; it is one of the constants then."""
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
            return False
        if not all(item in self.fixed for item in node.all_input_nodes) or changes_first(node) or _shows_data(node):
            return False
        self.fixed.add(node)
        return True

    def weight(self, node: fx.Node, path: str) -> str:
        """Name the weight that a placeholder stands for, by one of its paths."""
        if path not in self.found:
            tensor = self._tensor_of(self.known[node])
            self.tensors[path] = tensor
            self.found[path] = weight_constant(path, tensor)
        return path

    def chain(self, node: fx.Node) -> str:
        """Name what is computed from weights alone."""
        name = value_name(node.name, self.held)
        if name not in self.found:
            self._mark_chained(node)
            shape, dtype = tuple(map(length, shape_of(node))), name_of(node.meta["val"].dtype)
            self.found[name] = Constant(name, shape, dtype, partial(self._evaluate, node))
        return name

    def numbers(self, node: fx.Node) -> Floats | None:
        """Give the numbers of a tensor, float64; None where they are not known before the run."""
        return self._evaluate(node) if node in self.fixed else None

    def scalar(self, name: str, number: float, node: fx.Node) -> str:
        """Name a number that stands in the call itself."""
        dtype = name_of(node.meta["val"].dtype)
        self.found[name] = Constant(name, (), dtype, partial(np.asarray, number, np.float64))
        return name

    def derived(self, source: str, shape: tuple[int, ...]) -> str:
        """Name a constant in another shape; a value keeps its name."""
        constant = self.found.get(source)
        if constant is None or constant.shape == shape:
            return source
        name = f"{source}:{'x'.join(map(str, shape))}"
        self.found[name] = Constant(name, shape, constant.dtype, lambda: constant.load().reshape(shape))
        return name

    def _tensor_of(self, path: str) -> Tensor:
        if path not in self.held:
            raise BnfoldError(f"{path}: the exported program has no tensor of this name")
        return self.held[path]

    def _mark_chained(self, node: fx.Node) -> None:
        pending = [node]
        while pending:
            item = pending.pop()
            if item in self.known:
                self.chained.update(self.paths.aliases(self.known[item]))
            pending.extend(item.all_input_nodes)

    def _evaluate(self, node: fx.Node) -> Floats:
        """Run a chain of constants in float64."""
        cache: dict[fx.Node, Any] = {}
        with torch.no_grad():
            return as_float64(self._run(node, cache))

    def _run(self, node: fx.Node, cache: dict[fx.Node, Any]) -> Any:
        if node not in cache:
            if node in self.known:
                cache[node] = _wide(self._tensor_of(self.known[node]))
            else:
                arguments = fx.map_arg((node.args, dict(node.kwargs)), lambda item: self._run(item, cache))
                cache[node] = _computed(node, *arguments)
        return cache[node]


def _shows_data(node: fx.Node) -> bool:
    """Whether it picks rows of a table, or expands a token to a batch: what it shows can be rewritten, as it can't."""
    kind = _operator(node)
    return kind is _ATEN.embedding or (
        kind is _ATEN.expand and all(_operator(user) is _ATEN.cat for user in node.users)
    )


def _operator(node: fx.Node) -> object:
    return getattr(node.target, "overloadpacket", None)


def _computed(node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call the operator; what only casts between floats is passed over, so that nothing is rounded on the way."""
    if _operator(node) in _CASTS and all(map(_is_floating, (args[0], node.meta.get("val")))):
        return args[0]
    return _wide(node.target(*args, **kwargs))  # type: ignore[operator]


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _wide(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_wide(item) for item in value]
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.double() if _is_floating(value) else value
    return value


def weight_constant(name: str, tensor: Tensor) -> Constant:
    """Give a tensor as a constant, which reads it each time."""
    rows = partial(_rows, tensor) if tensor.ndim else None
    return Constant(name, tuple(tensor.shape), name_of(tensor.dtype), partial(as_float64, tensor), rows)


def as_float64(tensor: Tensor) -> Floats:
    """Copy to NumPy; the copy may be changed.

    Into NumPy's own memory: torch asks for aligned blocks, and glibc serves none from the hole that one left behind, so
    that stretch after stretch of the weights had grown the heap.
    """
    copy = np.empty(tuple(tensor.shape), np.float64)
    torch.from_numpy(copy).copy_(tensor.detach())
    return copy


def _rows(tensor: Tensor, start: int, stop: int) -> Floats:
    return as_float64(tensor[start:stop])


def name_of(dtype: torch.dtype) -> str:
    """Name a dtype as the graph does: float32."""
    return str(dtype).removeprefix("torch.")
