"""How the structure of a folded module differs from the original's: what `bnfold.load` needs besides the weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from bnfold.adapters.torch_clip import ChannelClip
from bnfold.errors import BnfoldError

VERSION = 1


@dataclass(frozen=True)
class ModuleEdits:
    """Submodules that became nn.Identity, submodules of which only children stay, and parameters that are new.

    identity: module paths. kept_children: module path -> names of its children that run, in order (the activation of
    a BatchNorm that carries one). biases: parameter path -> shape. copying: activations that worked in place on what
    is now read elsewhere too, and do so no more. clips: path of an activation that became a `ChannelClip` -> the shape
    of its bounds.
    """

    identity: tuple[str, ...] = ()
    kept_children: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    biases: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    copying: tuple[str, ...] = ()
    clips: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def apply(self, module: nn.Module) -> None:
        """Change the structure of `module` in place; new parameters are zeros beside the layer's weight.

        Raises BnfoldError where a path isn't there.
        """
        for path in self.copying:
            vars(_submodule(module, path))["inplace"] = False
        for path in self.identity:
            _replace(module, path, nn.Identity())
        for path, shape in self.clips.items():
            _replace(module, path, ChannelClip(*_bounds(module, shape)))
        for path, children in self.kept_children.items():
            parent = _submodule(module, path)
            kept = [_submodule(parent, child) for child in children]
            _replace(module, path, kept[0] if len(kept) == 1 else nn.Sequential(*kept))
        for path, shape in self.biases.items():
            owner, _, name = path.rpartition(".")
            _add_parameter(_submodule(module, owner), name, shape)
        module.eval()

    def then(self, other: "ModuleEdits") -> "ModuleEdits":
        """Give the edits of a fold of what was folded before."""
        return ModuleEdits(
            (*self.identity, *other.identity),
            {**self.kept_children, **other.kept_children},
            {**self.biases, **other.biases},
            tuple(dict.fromkeys((*self.copying, *other.copying))),
            {**self.clips, **other.clips},
        )

    def to_json(self) -> str:
        """Give the text that a file stores."""
        content = {
            "version": VERSION,
            "identity": list(self.identity),
            "kept_children": {path: list(names) for path, names in self.kept_children.items()},
            "biases": {path: list(shape) for path, shape in self.biases.items()},
            "copying": list(self.copying),
            "clips": {path: list(shape) for path, shape in self.clips.items()},
        }
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> "ModuleEdits":
        """Read what `to_json` gave; `source` is what the message calls it. Raises BnfoldError for anything else."""
        try:
            content = json.loads(text)
            if content["version"] != VERSION:
                raise BnfoldError(f"{source}: edits of version {content['version']!r}; this bnfold reads {VERSION}")
            return cls(
                tuple(map(_text, content["identity"])),
                {_text(path): tuple(map(_text, names)) for path, names in content["kept_children"].items()},
                {_text(path): tuple(map(_size, shape)) for path, shape in content["biases"].items()},
                tuple(map(_text, content["copying"])),
                {_text(path): tuple(map(_size, shape)) for path, shape in content["clips"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BnfoldError(f"{source}: its edits are malformed ({type(error).__name__}: {error})") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"wanted a text, got {value!r}")
    return value


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"wanted a size, got {value!r}")
    return value


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise BnfoldError(f"{type(module).__name__} has no submodule {path!r}, which the file's edits name") from error


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    parent = _submodule(module, owner)
    _submodule(parent, name)
    setattr(parent, name, new)


def _bounds(module: nn.Module, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give bounds that clip nothing, in the dtype and on the device of the module's weights."""
    largest = max((max(item.shape, default=0) for item in module.parameters()), default=0)
    if max(shape, default=0) > largest:
        raise BnfoldError(f"{type(module).__name__} has no layer of {max(shape)} channels, which the file's edits name")
    like = next(module.parameters())
    full = torch.full(shape, torch.inf, dtype=like.dtype, device=like.device)
    return -full, full


def _add_parameter(owner: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Register zeros like the layer's own weight in dtype, device and requires_grad."""
    like = getattr(owner, "weight", None)
    if not isinstance(like, torch.Tensor) or max(shape, default=0) > max(like.shape, default=0) * 1024:
        raise BnfoldError(f"{type(owner).__name__} can't take the parameter {name!r} of shape {shape}")
    value = torch.zeros(shape, dtype=like.dtype, device=like.device)
    owner.register_parameter(name, nn.Parameter(value, requires_grad=like.requires_grad))
