"""All ONNX patterns, in order."""

from pattern_suite import onnx_linear, onnx_forms, onnx_back, onnx_forward, onnx_partial  # isort: skip
from pattern_suite import onnx_shared, onnx_blocks, onnx_data, onnx_stays  # isort: skip
from pattern_suite.onnx_building import CASES

__all__ = [
    "CASES",
    "onnx_back",
    "onnx_blocks",
    "onnx_data",
    "onnx_forms",
    "onnx_forward",
    "onnx_linear",
    "onnx_partial",
    "onnx_shared",
    "onnx_stays",
]
