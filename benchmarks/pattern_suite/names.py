"""The tools by name, in the order of the table's columns."""

TORCH_TOOLS = (
    "bnfold",
    "bnfold max",
    "bnfold .pt2",
    "fx fuse",
    "ao fuse_fx",
    "torchao pt2e",
    "jit freeze",
    "Inductor freezing",
    "AIMET",
    "brevitas",
)
ONNX_TOOLS = (
    "bnfold",
    "bnfold max",
    "onnxsim",
    "onnxslim",
    "onnxscript",
    "onnxoptimizer",
    "ONNX Runtime basic",
    "ONNX Runtime extended",
    "AIMET",
)
