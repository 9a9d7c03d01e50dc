"""What the PyTorch patterns are made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Model = tuple[nn.Module, tuple[Tensor, ...]]
CASES: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Case:
    """A pattern. least: the affines that the best right tool must leave. build: gives the same model each time."""

    name: str
    group: str
    least: int
    build: Callable[[], Model]
    note: str = ""


def case(
    group: str,
    name: str,
    *,
    least: int = 0,
    note: str = "",
    then: Callable[[nn.Module], object] | None = None,
    **options: Any,
) -> Callable[[Callable[[], Model]], Callable[[], Model]]:
    """Register a function that gives a module and its inputs.

    options: what `randomised` takes. then: changes numbers or dtypes afterwards.
    """

    def register(build: Callable[[], Model]) -> Callable[[], Model]:
        def seeded() -> Model:
            torch.manual_seed(0)
            module, inputs = build()
            randomised(module, **options).eval()
            if then is not None:
                with torch.no_grad():
                    then(module)
            return module, inputs

        if name in CASES:
            raise ValueError(f"two patterns are called {name!r}")
        CASES[name] = Case(name, group, least, seeded, note)
        return build

    return register


class Net(nn.Module):
    """Submodules by name, and a function for its forward."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        """Call the function."""
        return self.run(self, x)


class Net2(Net):
    """One with two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        """Call the function."""
        return self.run(self, x, y)


def norms(module: nn.Module) -> Iterator[nn.Module]:
    """Every submodule that has running statistics."""
    return (part for part in module.modules() if getattr(part, "running_var", None) is not None)


def randomised(module: nn.Module, positive: bool = False, still: bool = False) -> nn.Module:
    """Draw every number, no two channels alike. Gammas have both signs unless `positive`; `still`: t = 0."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(spread * torch.randn(parameter.shape, generator=draw))
        for norm in norms(module):
            norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=draw) * (not still))
            norm.running_var.copy_(0.5 + 1.5 * torch.rand(norm.running_var.shape, generator=draw))
            if getattr(norm, "weight", None) is not None:
                sign = torch.where(torch.arange(len(norm.weight)) % 3 == 1, 1.0 if positive else -1.0, 1.0)
                norm.weight.copy_((0.5 + 1.5 * torch.rand(norm.weight.shape, generator=draw)) * sign)
                norm.bias.mul_(not still)
    return module


def image(channels: int = 3, size: int = 9, batch: int = 2) -> Tensor:
    """Random numbers of both signs, (batch, channels, size, size)."""
    return 2 * torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(2))


def rows(*shape: int) -> Tensor:
    """Random numbers of both signs."""
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(3))
