"""Networks with BatchNorm, one a file, as a person would write them. `ARCHITECTURES` lists them by name.

Importing this package imports neither torch nor any network: a factory is looked up when it is asked for.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

Task = Literal["classify", "reconstruct"]


@dataclass(frozen=True)
class Architecture:
    """A network that can be asked for by name.

    `input_shape` leaves out the batch: (channels, length), (channels, height, width) or
    (channels, depth, height, width). `arguments` are the factory's own defaults, all of them JSON values.
    """

    name: str
    class_name: str
    summary: str
    input_shape: tuple[int, ...] = (1, 28, 28)
    arguments: Mapping[str, int] = field(default_factory=lambda: {"in_channels": 1, "num_classes": 10})
    task: Task = "classify"

    @property
    def factory(self) -> "Callable[..., nn.Module]":
        """Import the network's module and give its class."""
        module = importlib.import_module(f"bnfold.models.{self.name}")
        factory: Callable[..., nn.Module] = getattr(module, self.class_name)
        return factory


def _classifier(**sizes: int) -> Mapping[str, int]:
    return MappingProxyType({"in_channels": 1, "num_classes": 10, **sizes})


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        architecture.name: architecture
        for architecture in (
            Architecture("lenet", "LeNet", "LeNet-5 with a BatchNorm before every sigmoid"),
            Architecture("lenet_scratch", "LeNetScratch", "LeNet with a BatchNorm layer written by hand from tensors"),
            Architecture("convnet", "ConvNet", "conv5x5-BN-relu-maxpool twice", arguments=_classifier(width=16)),
            Architecture("mlp", "MLP", "linear-BN-relu", arguments=_classifier(image_size=28, width=128)),
            Architecture(
                "resnet", "ResNet", "residual blocks, BN after conv", arguments=_classifier(width=16, blocks=2)
            ),
            Architecture(
                "preact_resnet",
                "PreActResNet",
                "residual blocks, BN before conv",
                arguments=_classifier(width=16, blocks=2),
            ),
            Architecture(
                "densenet", "DenseNet", "dense blocks with 1x1 bottlenecks", arguments=_classifier(growth=8, layers=4)
            ),
            Architecture("mobilenet", "MobileNet", "inverted residuals, depthwise", arguments=_classifier(width=16)),
            Architecture(
                "repvgg", "RepVGG", "three parallel branches, unmerged", arguments=_classifier(width=16, blocks=2)
            ),
            Architecture(
                "autoencoder",
                "Autoencoder",
                "convolutions down, transposed convolutions up",
                arguments=MappingProxyType({"in_channels": 1, "width": 16}),
                task="reconstruct",
            ),
            Architecture("conv1d", "Conv1dNet", "a signal, BatchNorm1d", (1, 256), _classifier(width=16)),
            Architecture("conv3d", "Conv3dNet", "a volume, BatchNorm3d", (1, 6, 16, 16), _classifier(width=8)),
        )
    }
)


def create(name: str, *, bn_eps: float = 1e-5, bn_momentum: float = 0.1, **arguments: Any) -> "nn.Module":
    """Build `ARCHITECTURES[name]` with its default arguments, updated with `arguments`.

    `bn_eps` and `bn_momentum` (PyTorch's convention: the weight of the new batch) are set on every BatchNorm of
    the network, hand-written ones included. The module is in training mode with fresh weights.

    Raises KeyError for an unknown name and TypeError for an argument that the network doesn't take.
    """
    architecture = ARCHITECTURES[name]
    module = architecture.factory(**{**architecture.arguments, **arguments})
    for layer in module.modules():
        if hasattr(layer, "eps") and hasattr(layer, "momentum"):
            vars(layer).update(eps=bn_eps, momentum=bn_momentum)
    return module
