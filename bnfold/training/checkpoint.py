"""A checkpoint: a network's weights, and all that is needed to build it again and to feed it.

On disk it is a plain dict that `torch.load(path, weights_only=True)` reads (docs/training.md has the fields). It names
an architecture of `bnfold.models` and never code.
"""

import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES, create
from bnfold.training import archive

FORMAT: Final = "bnfold.checkpoint"
VERSION: Final = 1
KIND: Final = "a checkpoint of bnfold"

Number = int | float


@dataclass(frozen=True)
class Checkpoint:
    """What `bnfold train` writes.

    The network takes (x - mean) / std per channel, with x of shape (N, *input_shape) and values in [0, 1].
    `edits` is the JSON text of a plan that was applied to the network after it was built, or None.
    """

    architecture: str
    arguments: Mapping[str, Any]
    state_dict: Mapping[str, Tensor]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    metrics: Mapping[str, Number] = field(default_factory=dict)
    edits: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Give the plain dict that is saved; tensors are contiguous, on the CPU and own no more than they show."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "state_dict": {name: _compact(tensor) for name, tensor in self.state_dict.items()},
            "input_shape": list(self.input_shape),
            "normalisation": {"mean": list(self.mean), "std": list(self.std)},
            "classes": list(self.classes),
            "metrics": dict(self.metrics),
            "edits": self.edits,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, object], source: str) -> "Checkpoint":
        """Read the plain dict; `source` is what the messages call it. Raises BnfoldError where it is malformed."""
        _check(content, source)
        fields: Mapping[str, Any] = content
        normalisation = fields["normalisation"]
        return cls(
            architecture=fields["architecture"],
            arguments=fields["arguments"],
            state_dict=fields["state_dict"],
            input_shape=tuple(fields["input_shape"]),
            mean=tuple(float(value) for value in normalisation["mean"]),
            std=tuple(float(value) for value in normalisation["std"]),
            classes=tuple(fields["classes"]),
            metrics=fields["metrics"],
            edits=fields["edits"],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        archive.save(self.to_dict(), path)

    def skeleton(self, source: str = "checkpoint") -> nn.Module:
        """Build the network without weights (on the meta device), as it was before any `edits`.

        Raises BnfoldError for an architecture that isn't bnfold's, or arguments that it doesn't take.
        """
        _check_arguments(self, source)
        with torch.device("meta"):
            try:
                return create(self.architecture, **self.arguments)
            except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
                raise BnfoldError(
                    f"{source}: {self.architecture} can't be built with its arguments ({error})"
                ) from error

    def fill(self, module: nn.Module, source: str = "checkpoint") -> nn.Module:
        """Give `module`, a skeleton or one with edits applied, copies of the weights; the result is in eval mode.

        Raises BnfoldError where names or shapes disagree.
        """
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in self.state_dict.items()}
        if wanted != got:
            raise BnfoldError(f"{source}: weights don't fit {self.architecture}: {_difference(wanted, got)}")
        module.load_state_dict({name: tensor.clone() for name, tensor in self.state_dict.items()}, assign=True)
        return module.eval()

    def model(self, source: str = "checkpoint") -> nn.Module:
        """Build the network with its weights, in eval mode. Only for checkpoints without `edits`."""
        if self.edits is not None:
            raise BnfoldError(f"{source}: was folded; bnfold.load builds folded networks")
        return self.fill(self.skeleton(source), source)


def is_checkpoint(content: object) -> bool:
    """Is this what torch.load gives for a checkpoint, malformed or not?"""
    return isinstance(content, dict) and content.get("format") == FORMAT


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint. Raises BnfoldError for anything else, and UnsafeError where that could run code."""
    return Checkpoint.from_dict(archive.read(path, KIND), str(path))


def _compact(tensor: Tensor) -> Tensor:
    plain = tensor.detach().cpu().contiguous()
    return plain.clone() if plain.untyped_storage().nbytes() > plain.nbytes else plain


def _is_int(value: object, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_named(value: object, good: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and good(item) for name, item in value.items())


def _is_listed(value: object, good: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and all(good(item) for item in value)


def _is_plain_tensor(value: object) -> bool:
    """Dense, and no larger than the bytes behind it: one expanded element can claim a terabyte."""
    return (
        type(value) is Tensor
        and value.layout is torch.strided
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _is_normalisation(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_listed(value.get("mean"), _is_number)
        and _is_listed(value.get("std"), lambda item: _is_number(item) and item > 0)  # type: ignore[operator]
        and len(value["mean"]) == len(value["std"])
    )


_FIELDS: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "architecture": (lambda value: isinstance(value, str), "a name"),
    "arguments": (
        lambda value: _is_named(value, lambda item: isinstance(item, str) or _is_number(item)),
        "a dict of numbers and texts by name",
    ),
    "state_dict": (lambda value: _is_named(value, _is_plain_tensor), "a dict of dense tensors by name"),
    "input_shape": (lambda value: _is_listed(value, _is_int) and bool(value), "a list of positive integers"),
    "normalisation": (_is_normalisation, "the lists mean and std, of one length, with std > 0"),
    "classes": (lambda value: _is_listed(value, lambda item: isinstance(item, str)), "a list of texts"),
    "metrics": (lambda value: _is_named(value, _is_number), "a dict of finite numbers by name"),
    "edits": (lambda value: value is None or isinstance(value, str), "None or a text"),
}


def _check(content: Mapping[str, object], source: str) -> None:
    if content.get("format") != FORMAT:
        raise BnfoldError(
            f"{source}: is not {KIND} (its keys begin {list(content)[:3]}); for a plain state_dict give --arch"
        )
    if content.get("version") != VERSION:
        raise BnfoldError(
            f"{source}: has version {content.get('version')!r}, this bnfold reads {VERSION}; update bnfold"
        )
    for name, (good, wanted) in _FIELDS.items():
        if name not in content:
            raise BnfoldError(f"{source}: has no {name!r}; {KIND} has {wanted} there")
        if not good(content[name]):
            raise BnfoldError(f"{source}: {name!r} is {_short(content[name])}; {KIND} has {wanted} there")


def _check_arguments(checkpoint: Checkpoint, source: str) -> None:
    name = checkpoint.architecture
    if name not in ARCHITECTURES:
        raise BnfoldError(f"{source}: architecture {_short(name)} is not one of bnfold's; give yours with --arch")
    taken = {*inspect.signature(ARCHITECTURES[name].factory).parameters, "bn_eps", "bn_momentum"}
    unknown = set(checkpoint.arguments) - taken
    if unknown:
        raise BnfoldError(f"{source}: {name} takes no {_short(min(unknown))}; it takes {', '.join(sorted(taken))}")
    # An argument counts channels, classes, pixels or layers, so the weights bound it: a forged one can't make
    # the network larger than the file is.
    tensors = checkpoint.state_dict.values()
    bound = max([len(checkpoint.state_dict), *(size for tensor in tensors for size in tensor.shape)])
    for key, value in checkpoint.arguments.items():
        if not (_is_number(value) and 0 < value <= 1 if key.startswith("bn_") else _is_int(value) and value <= bound):
            raise BnfoldError(f"{source}: {name} can't have {key} = {_short(value)} with these weights")


def _difference(wanted: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> str:
    lines = [f"{name} is missing" for name in wanted if name not in got]
    lines += [f"{name} is unknown" for name in got if name not in wanted]
    lines += [
        f"{name} is {got[name]}, not {wanted[name]}" for name in wanted if got.get(name, wanted[name]) != wanted[name]
    ]
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, dict | Tensor) else f"another {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
