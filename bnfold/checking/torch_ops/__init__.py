"""ONNX's operators on torch tensors, one family a module, by the text of ONNX's own specification.

Each function takes its `Node` and the node's inputs (None where an optional one is left out) and gives the outputs.
"""

from bnfold.checking.torch_ops import (  # noqa: F401  (each registers its family)
    activation,
    elementwise,
    fused,
    indexing,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resizing,
    spectral,
)
from bnfold.checking.torch_ops.registry import MissingOperatorError, Node, implementation, spell, to_tensor

__all__ = ["MissingOperatorError", "Node", "implementation", "spell", "to_tensor"]
