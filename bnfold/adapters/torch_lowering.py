"""What functions of torch are in ATen operators: torch.export is asked once for all calls that are alike.

What a call is lowered to depends on its function, the shapes, strides and dtypes of its tensors, which of these are the
same, and its other arguments; a deep network has few calls that differ in these. Of functions that are one operator
whatever the lengths are, only ranks and dtypes count.
"""

import itertools
import operator
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from bnfold.adapters.torch_capture import quietly
from bnfold.adapters.torch_names import path_of
from bnfold.adapters.torch_tape import Call, filled


@dataclass(frozen=True, slots=True)
class Lowered:
    """A call in ATen operators. operands: the placeholders of its tensors, each once, in order of appearance."""

    operands: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]


ONE_OPERATOR = frozenset(
    {torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
    | {F.batch_norm, F.linear, F.relu, F.relu6, F.leaky_relu, F.silu, F.gelu, F.hardswish, F.hardtanh, F.layer_norm}
    | {torch.relu, torch.sigmoid, Tensor.sigmoid, Tensor.relu, Tensor.relu_}
    | {Tensor.add, Tensor.add_, Tensor.sub, Tensor.sub_, Tensor.mul, Tensor.mul_, Tensor.div, torch.add, torch.mul}
)


def kind_of(call: Call) -> Hashable:
    """Tell what a call is lowered alike with."""
    if call.func in ONE_OPERATOR:
        return call.frame, tuple((len(seen.shape), seen.dtype, seen.device) for seen in call.operands)
    return call.frame, tuple((*seen.form, seen.device) for seen in call.operands)


def lowered(calls: Iterable[Call]) -> dict[Hashable, Lowered] | None:
    """Lower one call of each kind; None where torch.export can't, or where one isn't made of plain operators."""
    different: dict[Hashable, Call] = {}
    for call in calls:
        different.setdefault(kind_of(call), call)
    functions = _Functions(list(different.values()))
    try:
        with quietly(), torch.no_grad():
            program = torch.export.export(functions, tuple(functions.inputs), strict=False)
    except Exception:  # noqa: BLE001 - whatever it is, the whole forward is exported then, and tells
        return None
    if any(spec.kind is not InputKind.USER_INPUT for spec in program.graph_signature.input_specs):
        return None  # a tensor that a function makes of numbers
    found = dict(zip(different, functions.lowered(program), strict=True))
    return found if all(map(_is_plain, found.values())) else None


class _Functions(nn.Module):
    """Calls each function once. inputs: for all of them; those that give new memory share the inputs that are alike."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__()
        self.functions = nn.ModuleList(map(_Function, calls))
        self.calls = calls
        self.inputs: list[Tensor] = []
        shared: dict[Hashable, int] = {}
        with FakeTensorMode():
            self.places = [self._places(index, call, shared) for index, call in enumerate(calls)]

    def _places(self, index: int, call: Call, shared: dict[Hashable, int]) -> list[int]:
        given = {seen.memory for seen in call.operands}
        own = call.writes or any(seen.memory in given for seen in call.results)
        alike: Counter[Hashable] = Counter()
        places = []
        for seen in call.operands:
            form = (*seen.form, seen.device)
            key = (form, alike[form], index if own else None)
            places.append(shared.setdefault(key, len(self.inputs)))
            if places[-1] == len(self.inputs):
                self.inputs.append(torch.empty_strided(seen.shape, seen.stride, dtype=seen.dtype, device=seen.device))
            alike[form] += 1
        return places

    def forward(self, *tensors: Tensor) -> list[list[Tensor]]:
        """Give the tensors that each function gives."""
        pairs = zip(self.functions, self.places, strict=True)
        return [function(*(tensors[place] for place in places)) for function, places in pairs]

    def lowered(self, program: ExportedProgram) -> Iterator[Lowered]:
        """Take the program of these functions apart."""
        nodes = program.graph.nodes
        inputs = [node for node in nodes if node.op == "placeholder"]
        (outputs,) = (node.args[0] for node in nodes if node.op == "output")
        bodies: dict[str, list[fx.Node]] = {}
        for node in nodes:
            if node.op == "call_function":
                bodies.setdefault(path_of(node), []).append(node)
        given = iter(outputs)
        for index, (call, places) in enumerate(zip(self.calls, self.places, strict=True)):
            results = tuple(itertools.islice(given, len(call.results)))
            operands = tuple(inputs[place] for place in places)
            yield Lowered(operands, tuple(bodies.get(f"functions.{index}", ())), results)


class _Function(nn.Module):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        by_number = {seen.number: tensor for seen, tensor in zip(self.call.operands, tensors, strict=True)}
        args, kwargs = filled((self.call.args, self.call.kwargs), lambda seen: by_number[seen.number])
        return [item for item in pytree.tree_leaves(self.call.func(*args, **kwargs)) if isinstance(item, Tensor)]


def _is_plain(function: Lowered) -> bool:
    """Whether it is made of operators alone, on its own tensors, whose shapes are known."""
    own = {*function.operands, *function.nodes}
    if not own.issuperset(item for node in function.nodes for item in node.all_input_nodes):
        return False
    if not own.issuperset(function.results):
        return False
    targets = (node.target for node in function.nodes)
    if not all(isinstance(target, torch._ops.OpOverload) or target is operator.getitem for target in targets):
        return False
    values = pytree.tree_leaves([node.meta.get("val") for node in (*function.nodes, *function.results)])
    return all(item is None or _has_plain_shape(item) for item in values)


def _has_plain_shape(item: object) -> bool:
    return isinstance(item, Tensor) and all(type(size) is int for size in (*item.shape, *item.stride()))
