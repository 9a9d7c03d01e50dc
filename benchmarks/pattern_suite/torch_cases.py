"""All PyTorch patterns, in order."""

from pattern_suite import torch_linear, torch_further, torch_partial, torch_blocks, torch_limits  # isort: skip
from pattern_suite.torch_building import CASES

__all__ = ["CASES", "torch_blocks", "torch_further", "torch_limits", "torch_linear", "torch_partial"]
