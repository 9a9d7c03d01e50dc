"""What a module is made of, as far as rewriting it is concerned: hooks, parametrizations, attributes."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bnfold.ops import Bilinear as BilinearOp
from bnfold.ops import Conv as ConvOp
from bnfold.ops import ConvTranspose as ConvTransposeOp
from bnfold.ops import Linear as LinearOp
from bnfold.ops import Op

_OLD_STYLE = (WeightNorm, SpectralNorm, BasePruningMethod)
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)


def find(module: nn.Module, path: str) -> nn.Module | None:
    """Give a submodule; None where there is none at this path."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def attribute(module: nn.Module, path: str) -> Tensor | None:
    """Give a parameter, buffer or plain tensor attribute by its path; None where the module has none."""
    owner, _, name = path.rpartition(".")
    part = find(module, owner)
    value = None if part is None else getattr(part, name, None)
    return value if isinstance(value, Tensor) else None


def is_parametrized(part: nn.Module) -> bool:
    """Whether a weight is computed from others at every call: weight_norm, spectral_norm, prune, old or new style."""
    old = any(isinstance(hook, _OLD_STYLE) for hook in part._forward_pre_hooks.values())
    return old or parametrize.is_parametrized(part)


def is_hooked(part: nn.Module) -> bool:
    """Whether somebody watches or changes what goes into or comes out of the module (parametrizations aside)."""
    hooks = [hook for name in _FORWARD_HOOKS for hook in getattr(part, name).values()]
    return any(not isinstance(hook, _OLD_STYLE) for hook in hooks)


def hooked(module: nn.Module) -> Iterator[str]:
    """Give the paths of the modules with hooks."""
    for path, part in module.named_modules():
        if is_hooked(part):
            yield path


def takes_bias(part: nn.Module | None, op: Op) -> bool:
    """Whether the layer has an empty place for a bias that its forward reads."""
    kinds = isinstance(op, (ConvOp, ConvTransposeOp, LinearOp, BilinearOp)) and isinstance(part, _LAYERS)
    return bool(kinds and part is not None and part._parameters.get("bias", 0) is None)


def is_floating_strided(tensor: Tensor) -> bool:
    """Whether new numbers can be stored in place of the tensor's."""
    return tensor.is_floating_point() and tensor.layout is torch.strided and not tensor.is_quantized
