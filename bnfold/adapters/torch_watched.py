"""Which submodules a forward looks at beyond calling them: `hasattr(self.norm, "weight")`, `self.norm.eps`."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_restoring import unchanged
from bnfold.adapters.torch_steps import Step
from bnfold.adapters.torch_trace import recorded

_CHILD = "seen_through"


class _Stranger(nn.Module):
    """Does what a layer does, and looks like nothing that a forward could know."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.add_module(_CHILD, layer)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.get_submodule(_CHILD)(x)
        return result


def looked_at(module: nn.Module, given: Arguments, paths: Collection[str]) -> tuple[str, ...]:
    """Give those of the submodules at `paths` whose look changes the forward's path. `module` stays as it is."""
    own = _steps(module, given)
    return () if own is None else tuple(_search(module, given, sorted(paths), own))


def _search(module: nn.Module, given: Arguments, paths: Sequence[str], own: list[tuple[str, ...]]) -> list[str]:
    """Halve until one is left: most of them are innocent."""
    if not paths or _with_strangers(module, given, paths) == own:
        return []
    if len(paths) == 1:
        return list(paths)
    half = len(paths) // 2
    return _search(module, given, paths[:half], own) + _search(module, given, paths[half:], own)


def _with_strangers(module: nn.Module, given: Arguments, paths: Sequence[str]) -> list[tuple[str, ...]] | None:
    with unchanged(module):
        for path in paths:
            owner, _, name = path.rpartition(".")
            setattr(module.get_submodule(owner), name, _Stranger(module.get_submodule(path)).eval())
        return _steps(module, given)


def _steps(module: nn.Module, given: Arguments) -> list[tuple[str, ...]] | None:
    try:
        with torch.no_grad(), unchanged(module):
            steps, _ = recorded(module, given)
    except Exception:  # noqa: BLE001 - a forward that misses an attribute of the layer has looked at it
        return None
    return [_plain(step) for step in steps]


def _plain(step: Step) -> tuple[str, ...]:
    return (step.name, *(text.replace(f".{_CHILD}.", ".") for text in step.operands))
