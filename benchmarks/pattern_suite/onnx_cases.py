"""All ONNX patterns, in order."""

from pattern_suite import onnx_linear, onnx_further, onnx_blocks  # isort: skip
from pattern_suite.onnx_building import CASES

__all__ = ["CASES", "onnx_blocks", "onnx_further", "onnx_linear"]
