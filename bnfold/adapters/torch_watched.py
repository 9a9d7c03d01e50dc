"""What a forward does with its submodules: which it looks at beyond calling them, and which biases it doesn't read."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_restoring import unchanged
from bnfold.adapters.torch_steps import Step, Steps, is_as_planned
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
    """Give those of the submodules at `paths` whose look changes the forward's path: `hasattr(self.norm, "weight")`.

    `module` stays as it is.
    """
    own = _steps(module, given)

    def is_alike(some: Sequence[str]) -> bool:
        with unchanged(module):
            for path in some:
                owner, _, name = path.rpartition(".")
                setattr(module.get_submodule(owner), name, _Stranger(module.get_submodule(path)).eval())
            steps = _steps(module, given)
        return steps is not None and own is not None and list(map(_plain, steps)) == list(map(_plain, own))

    return () if own is None else tuple(_search(sorted(paths), is_alike))


def unread(module: nn.Module, given: Arguments, biases: Mapping[str, int]) -> tuple[str, ...]:
    """Give the paths of layers without a bias that don't take one in its place, or look whether there is one.

    biases: by path of such a layer, the length of a bias for it. `module` stays as it is.
    """
    own = _steps(module, given)

    def is_alike(some: Sequence[str]) -> bool:
        with unchanged(module):
            for path in some:
                layer = module.get_submodule(path)
                weight: Tensor = layer.weight  # type: ignore[assignment]
                layer.register_parameter("bias", nn.Parameter(weight.new_zeros(biases[path])))
            steps = _steps(module, given)
        names = {f"{path}.bias" if path else "bias" for path in some}
        return steps is not None and own is not None and is_as_planned(own, steps, (), names)

    return () if own is None else tuple(_search(sorted(biases), is_alike))


def _search(paths: Sequence[str], is_alike: Callable[[Sequence[str]], bool]) -> list[str]:
    """Halve until one is left: most of them are innocent."""
    if not paths or is_alike(paths):
        return []
    if len(paths) == 1:
        return list(paths)
    half = len(paths) // 2
    return _search(paths[:half], is_alike) + _search(paths[half:], is_alike)


def _steps(module: nn.Module, given: Arguments) -> Steps | None:
    try:
        with torch.no_grad(), unchanged(module):
            return recorded(module, given)[0]
    except Exception:  # noqa: BLE001 - a forward that misses an attribute of the layer has looked at it
        return None


def _plain(step: Step) -> tuple[str, ...]:
    return (step.name, *(text.replace(f".{_CHILD}.", ".") for text in step.operands))
