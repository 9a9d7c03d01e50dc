"""A copy of a module to change, and parametrizations turned into plain weights."""

import contextlib
import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from bnfold.adapters import torch_parts
from bnfold.errors import BnfoldError


def copied(module: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """Copy deeply, also what copy.deepcopy refuses: tensors with a history, as old-style weight_norm keeps them.

    shared: parameters whose memory is about to be replaced in the copy, which is spared a copy of them;
    `without_shared` ends that. Raises BnfoldError where the module can't be copied.
    """
    memo: dict[int, object] = {}
    for item in shared:
        if type(item) is nn.Parameter and not vars(item) and not item._backward_hooks:
            memo[id(item)] = nn.Parameter(item.detach(), requires_grad=item.requires_grad)
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise BnfoldError(
            f"{type(module).__name__} can't be copied ({type(error).__name__}: {error}); pass inplace=True"
        ) from error


def without_shared(module: nn.Module, original: nn.Module) -> None:
    """Give every parameter of a copy that still shows the original's memory one of its own."""
    memories = {item.data_ptr() for item in original.parameters() if item.layout is torch.strided}
    for item in module.parameters():
        if item.layout is torch.strided and item.data_ptr() in memories:
            item.data = item.data.clone()


@contextlib.contextmanager
def taken_back(module: nn.Module, *, always: bool = False) -> Iterator[None]:
    """Put every parametrization back where anything fails after `bake`; always: in any case."""
    parts = {part for owner in module.modules() if torch_parts.is_parametrized(owner) for part in owner.modules()}
    before = [(part, type(part), dict(vars(part))) for part in parts]
    contents = [(item, dict(item)) for *_, held in before for item in held.values() if isinstance(item, dict)]
    tensors = {item for part in parts for item in (*part.parameters(), *part.buffers())}
    memories = [(item, item.data) for item in tensors]  # prune and the new style write over the very parameter
    finished = False
    try:
        yield
        finished = True
    finally:
        if always or not finished:
            for part, kind, held in before:
                part.__class__ = kind
                vars(part).clear()
                vars(part).update(held)
            for place, items in contents:
                place.clear()
                place.update(items)
            for item, data in memories:
                item.data = data


def bake(module: nn.Module) -> tuple[str, ...]:
    """Make plain weights of weight_norm, spectral_norm and prune, old style and new; give the paths of the layers."""
    baked = []
    with torch.no_grad():
        for path, part in list(module.named_modules()):
            if not torch_parts.is_parametrized(part):
                continue
            for hook in list(part._forward_pre_hooks.values()):
                _remove_old(part, hook)
            if parametrize.is_parametrized(part):
                _own_class(part)
                for name in list(part.parametrizations):
                    parametrize.remove_parametrizations(part, name, leave_parametrized=True)
            baked.append(path)
    return tuple(baked)


def _own_class(part: nn.Module) -> None:
    """Give a class of its own: a copy shares it with the original, and baking takes the weight's property out of it."""
    shared = type(part)
    part.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))


def _remove_old(part: nn.Module, hook: object) -> None:
    match hook:
        case WeightNorm(name=name):
            remove_weight_norm(part, name)
        case SpectralNorm(name=name):
            remove_spectral_norm(part, name)
        case BasePruningMethod():
            prune.remove(part, hook._tensor_name)  # type: ignore[no-untyped-call]
