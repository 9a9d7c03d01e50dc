"""A plan carried out on a module: weights rewritten in float64 and rounded once, submodules of affines taken out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnfold import ops
from bnfold.adapters import torch_parts
from bnfold.adapters.torch_clip import ChannelClip
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_names import Paths
from bnfold.adapters.torch_numbers import finite, rounded, scaled_like
from bnfold.adapters.torch_replacing import Replacement
from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Graph, Node
from bnfold.plan import Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetConstants
from bnfold.relation import Site
from bnfold.rounding import scaled
from bnfold.rules.linear import contraction


@dataclass(eq=False)
class Written:
    """What a write did: the edits that loading needs, and how to take it all back."""

    edits: ModuleEdits
    undo: list[Callable[[], None]] = field(default_factory=list)
    biased: dict[str, str] = field(default_factory=dict)  # by node: the path of its new bias

    def take_back(self) -> None:
        """Put the module back as it was."""
        for step in reversed(self.undo):
            step()


def write(
    module: nn.Module,
    graph: Graph,
    plan: Plan,
    replacements: Mapping[str, Replacement],
    owners: Mapping[str, str],
    in_place: Sequence[str] = (),
) -> Written:
    """Carry out `plan`, made for `graph` (raised), on `module` in place.

    replacements: by node of the graph or among its sources. owners: by node, the path of its module. in_place: the
    paths of activations that would change a tensor which others read, once the affine before them is gone.
    Raises BnfoldError where the module can't take an edit; the module is then as it was.
    """
    writer = _Writer(module, graph, replacements, owners)
    try:
        for edit in plan.edits:
            writer.apply(edit)
        writer.stop_writing_in_place(in_place)
        writer.replace_parts()
        writer.flatten()
    except BaseException:
        writer.done.take_back()
        raise
    edits = ModuleEdits(tuple(writer.identity), writer.kept_children, writer.biases, tuple(in_place), writer.clips)
    return Written(edits, writer.done.undo, writer.done.biased)


class _Writer:
    def __init__(
        self, module: nn.Module, graph: Graph, replacements: Mapping[str, Replacement], owners: Mapping[str, str]
    ) -> None:
        self.module = module
        self.graph = graph
        self.replacements = replacements
        self.owners = owners
        self.paths = Paths(module)
        self.places = _places(module)
        self.done = Written(ModuleEdits())
        self.numbers: dict[str, Floats] = {}  # what has been written, by path: calls of one module want the same
        self.removed: set[str] = set()
        self.identity: list[str] = []
        self.kept_children: dict[str, tuple[str, ...]] = {}
        self.biases: dict[str, tuple[int, ...]] = {}
        self.clips: dict[str, tuple[int, ...]] = {}

    def apply(self, edit: Any) -> None:
        node = self.graph.by_name.get(edit.node)
        if node is None:
            raise BnfoldError(f"the plan names {edit.node}, which this module hasn't; make the plan anew")
        match edit:
            case ScaleWeight():
                self._scale(node, edit)
            case SetBias(_, bias):
                self._set_bias(node, bias)
            case SetConstants(_, constants):
                for index, numbers in constants.items():
                    self._store(node.inputs[index], numbers.reshape(self.graph.constants[node.inputs[index]].shape))
            case Remove():
                self.removed.update(node.sources or (node.name,))
            case ReplaceByClip(_, axis, lo, hi):
                self._clip(node, axis, lo, hi)
            case _:
                raise BnfoldError(f"{edit.node}: a {type(edit).__name__} can't be written into a module; use .onnx")

    def _scale(self, node: Node, edit: ScaleWeight) -> None:
        linear = contraction(Site(node, self.graph))
        if linear is None:
            raise BnfoldError(f"{node.name}: has no constant weight to scale")
        weight, path = self.graph.constants[linear.weight], linear.weight
        if len(self.graph.readers[path]) > 1:
            self._store(path, scaled(linear, weight, edit))
        else:
            old = self._stored(path, weight.shape)
            self._replace_tensor(path, old, scaled_like(path, old, linear, weight, edit))

    def _set_bias(self, node: Node, bias: Floats) -> None:
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        if name:
            beta = node.op.beta if isinstance(node.op, ops.Gemm) else 1.0
            shape = self.graph.constants[name].shape
            if int(np.prod(shape)) != bias.size:
                raise BnfoldError(f"{name}: has shape {shape}, and the fold needs {bias.shape}")
            self._store(name, (bias / beta).reshape(shape))
            return
        self._new_bias(node, bias)

    def _new_bias(self, node: Node, bias: Floats) -> None:
        owner = self.owners[node.name]
        part = torch_parts.find(self.module, owner)
        path = f"{owner}.bias" if owner else "bias"
        if path in self.numbers:
            self._require_equal(path, bias)
        elif part is None or not torch_parts.takes_bias(part, node.op):
            raise BnfoldError(f"{node.name}: has no place for a bias; create the layer with bias=True")
        else:
            weight: Tensor = part.weight  # type: ignore[assignment]
            value = nn.Parameter(rounded(bias.reshape(-1), weight), requires_grad=weight.requires_grad)
            part.register_parameter("bias", value)
            self.done.undo.append(partial(part.register_parameter, "bias", None))
            self.numbers[path] = bias
            self.biases[path] = tuple(value.shape)
        self.done.biased[node.name] = path

    def _store(self, path: str, numbers: Floats) -> None:
        if path in self.numbers:
            self._require_equal(path, numbers)
            return
        self.numbers[path] = numbers
        old = self._stored(path, numbers.shape)
        self._replace_tensor(path, old, finite(path, rounded(numbers, old), old))

    def _stored(self, path: str, shape: tuple[int, ...]) -> Tensor:
        tensor = torch_parts.attribute(self.module, path)
        if tensor is None or tuple(tensor.shape) != shape:
            raise BnfoldError(f"{path}: isn't a tensor of shape {shape} of the module")
        return tensor

    def _replace_tensor(self, path: str, old: Tensor, new: Tensor) -> None:
        owner, _, name = path.rpartition(".")
        part = self.module.get_submodule(owner)
        if isinstance(old, nn.Parameter) and len(self.paths.aliases(path)) == 1:
            before = old.data
            old.data = new
            self.done.undo.append(partial(setattr, old, "data", before))
            return
        fresh = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        setattr(part, name, fresh)
        self.done.undo.append(partial(setattr, part, name, old))

    def _clip(self, node: Node, axis: int, lo: Floats, hi: Floats) -> None:
        """Put a clip in the place of the module that is a ReLU; `torch_limits` lets no other come here."""
        path = self.owners[node.name]
        value = self.graph.values[node.output]
        like = torch.empty(0, dtype=getattr(torch, value.dtype), device=_device(self.module))
        shape = (len(lo), *[1] * (len(value.shape or ()) - axis - 1))
        bounds = [rounded(numbers.reshape(shape), like) for numbers in (lo, hi)]
        self._put(self.module.get_submodule(path), ChannelClip(*bounds))
        self.clips[path] = shape

    def _require_equal(self, path: str, numbers: Floats) -> None:
        if not np.array_equal(self.numbers[path].reshape(-1), numbers.reshape(-1)):
            raise BnfoldError(f"{path}: is used more than once, and the plan wants different numbers; untie it first")

    def stop_writing_in_place(self, paths: Sequence[str]) -> None:
        """Make these activations give a tensor of their own."""
        for path in paths:
            part = self.module.get_submodule(path)
            vars(part)["inplace"] = False
            self.done.undo.append(partial(vars(part).__setitem__, "inplace", True))

    def replace_parts(self) -> None:
        """Put Identity, or what runs after the affine, in the place of every submodule whose affine is removed."""
        wanted: dict[str, Replacement] = {}
        for name in sorted(self.removed):
            if name not in self.replacements:
                raise BnfoldError(f"{name}: exists only as code in a larger forward; write .pt2 or .onnx")
            wanted[self.replacements[name].path] = self.replacements[name]
        needed = self._needed()
        own: dict[str, set[str]] = {}
        for name, replacement in self.replacements.items():
            own.setdefault(replacement.path, set()).update({name} & needed)
        for path, replacement in wanted.items():
            if not own[path] <= self.removed:
                raise BnfoldError(f"{path}: only a part of it is folded, or only some of its calls")
            self._replace(path, replacement.children)

    def flatten(self) -> None:
        """Lay the weights of recurrent layers on a GPU side by side again, as cuDNN wants them."""
        owners = {path.rpartition(".")[0] for path in self.numbers}
        for path in sorted(owners):
            part = torch_parts.find(self.module, path)
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()

    def _needed(self) -> set[str]:
        """Give the nodes that change numbers."""
        found: set[str] = set()
        for node in self.graph.nodes:
            if not isinstance(node.op, ops.Identity):
                found.update(node.sources or (node.name,))
        return found

    def _replace(self, path: str, children: tuple[str, ...]) -> None:
        old = self.module.get_submodule(path)
        if children:
            kept = [old.get_submodule(child) for child in children]
            new = kept[0] if len(kept) == 1 else nn.Sequential(*kept)
            self.kept_children[path] = children
        else:
            new = nn.Identity()
            self.identity.append(path)
        self._put(old, new)

    def _put(self, old: nn.Module, new: nn.Module) -> None:
        new.training = old.training
        for owner, name in self.places[old]:
            setattr(owner, name, new)
            self.done.undo.append(partial(setattr, owner, name, old))
        self.places.setdefault(new, []).extend(self.places[old])


def _places(module: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str]]]:
    """Find every name under which each submodule hangs in the tree."""
    found: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, child in owner._modules.items():
            if child is not None:
                found.setdefault(child, []).append((owner, name))
    return found


def _device(module: nn.Module) -> torch.device:
    return next((item.device for item in module.parameters()), torch.device("cpu"))
