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
from bnfold.adapters.torch_numbers import finite, rounded, scale_into
from bnfold.adapters.torch_replacing import Replacement
from bnfold.adapters.torch_undo import Undo
from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Constant, Graph, Node
from bnfold.plan import Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetConstants
from bnfold.relation import Site
from bnfold.rules.linear import contraction


@dataclass(frozen=True, eq=False)
class Written:
    """What a write did. edits: what loading needs. biased: by node, the path of its new bias."""

    edits: ModuleEdits
    biased: Mapping[str, str] = field(default_factory=dict)


def write(
    module: nn.Module,
    graph: Graph,
    plan: Plan,
    replacements: Mapping[str, Replacement],
    owners: Mapping[str, str],
    in_place: Sequence[str],
    undo: Undo,
) -> Written:
    """Carry out `plan`, made for `graph` (raised), on `module` in place.

    replacements: by node of the graph or among its sources. owners: by node, the path of its module. in_place: the
    paths of activations that would change a tensor which others read, once the affine before them is gone. undo: gets
    the steps back. Raises BnfoldError where the module can't take an edit; the caller takes back what was done.
    """
    writer = _Writer(module, graph, replacements, owners, undo)
    for edit in plan.edits:
        writer.apply(edit)
    writer.stop_writing_in_place(in_place)
    writer.replace_parts()
    writer.flatten()
    edits = ModuleEdits(tuple(writer.identity), writer.kept_children, writer.biases, tuple(in_place), writer.clips)
    return Written(edits, writer.biased)


class _Writer:
    def __init__(
        self,
        module: nn.Module,
        graph: Graph,
        replacements: Mapping[str, Replacement],
        owners: Mapping[str, str],
        undo: Undo,
    ) -> None:
        self.module = module
        self.graph = graph
        self.replacements = replacements
        self.owners = owners
        self.paths = Paths(module)
        self.places = _places(module)
        self.undo = undo
        self.written: set[str] = set()  # paths: calls of one module want the same
        self.biased: dict[str, str] = {}
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
                    self._store(node.inputs[index], numbers)
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
        weight = self.graph.constants[linear.weight]
        self._write(weight, partial(scale_into, linear=linear, weight=weight, edit=edit))

    def _set_bias(self, node: Node, bias: Floats) -> None:
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        if name:
            beta = node.op.beta if isinstance(node.op, ops.Gemm) else 1.0
            shape = self.graph.constants[name].shape
            if int(np.prod(shape)) != bias.size:
                raise BnfoldError(f"{name}: has shape {shape}, and the fold needs {bias.shape}")
            self._store(name, bias / beta)
            return
        self._new_bias(node, bias)

    def _new_bias(self, node: Node, bias: Floats) -> None:
        owner = self.owners[node.name]
        part = torch_parts.find(self.module, owner)
        path = f"{owner}.bias" if owner else "bias"
        if part is None or not (path in self.written or torch_parts.takes_bias(part, node.op)):
            raise BnfoldError(f"{node.name}: has no place for a bias; create the layer with bias=True")
        weight: Tensor = part.weight  # type: ignore[assignment]
        value = nn.Parameter(rounded(bias.reshape(-1), weight), requires_grad=weight.requires_grad)
        if path in self.written:
            self._require_equal(path, value)
        else:
            self.undo.add(part.register_parameter, "bias", None)
            part.register_parameter("bias", value)
            self.written.add(path)
            self.biases[path] = tuple(value.shape)
        self.biased[node.name] = path

    def _store(self, path: str, numbers: Floats) -> None:
        constant = self.graph.constants[path]

        def fill(new: Tensor) -> None:
            new.copy_(finite(path, rounded(numbers.reshape(constant.shape), new), constant))

        self._write(constant, fill)

    def _write(self, constant: Constant, fill: Callable[[Tensor], None]) -> None:
        """Give the tensor of a constant other numbers. fill: writes them into one like it."""
        path = constant.name
        old = self._stored(path, constant.shape)
        if isinstance(old, nn.Parameter) and len(self.paths.aliases(path)) == 1 and path not in self.written:
            new = self.undo.weights.room(old)
            fill(new)
            old.data = new
        else:
            new = torch.empty_like(old, memory_format=torch.preserve_format).detach()
            fill(new)
            self._replace(path, old, new)
        self.written.add(path)

    def _replace(self, path: str, old: Tensor, new: Tensor) -> None:
        if path in self.written:
            self._require_equal(path, new)
            return
        owner, _, name = path.rpartition(".")
        part = self.module.get_submodule(owner)
        fresh = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        self.undo.add(setattr, part, name, old)
        setattr(part, name, fresh)

    def _stored(self, path: str, shape: tuple[int, ...]) -> Tensor:
        tensor = torch_parts.attribute(self.module, path)
        if tensor is None or tuple(tensor.shape) != shape:
            raise BnfoldError(f"{path}: isn't a tensor of shape {shape} of the module")
        return tensor

    def _clip(self, node: Node, axis: int, lo: Floats, hi: Floats) -> None:
        """Put a clip in the place of the module that is a ReLU; `torch_limits` lets no other come here."""
        path = self.owners[node.name]
        value = self.graph.values[node.output]
        like = torch.empty(0, dtype=getattr(torch, value.dtype), device=_device(self.module))
        shape = (len(lo), *[1] * (len(value.shape or ()) - axis - 1))
        bounds = [rounded(numbers.reshape(shape), like) for numbers in (lo, hi)]
        self._put(self.module.get_submodule(path), ChannelClip(*bounds))
        self.clips[path] = shape

    def _require_equal(self, path: str, again: Tensor) -> None:
        """Compare, as they are rounded, what two calls of one module want."""
        found = torch_parts.attribute(self.module, path)
        if found is None or not torch.equal(found, again):
            raise BnfoldError(f"{path}: is used more than once, and the plan wants different numbers; untie it first")

    def stop_writing_in_place(self, paths: Sequence[str]) -> None:
        """Make these activations give a tensor of their own."""
        for path in paths:
            part = self.module.get_submodule(path)
            self.undo.add(vars(part).__setitem__, "inplace", True)
            vars(part)["inplace"] = False

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
            self._take_out(path, replacement.children)

    def flatten(self) -> None:
        """Lay the weights of recurrent layers on a GPU side by side again, as cuDNN wants them."""
        owners = {path.rpartition(".")[0] for path in self.written}
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

    def _take_out(self, path: str, children: tuple[str, ...]) -> None:
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
            self.undo.add(setattr, owner, name, old)
            setattr(owner, name, new)
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
