"""Fold BatchNorm into the layers around it, export to ONNX, and prove that nothing changed."""

__version__ = "0.1.0"
