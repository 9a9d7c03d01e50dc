"""Folding ONNX files, without PyTorch."""

import os
from pathlib import Path

import onnx

from bnfold.adapters.onnx_external import Folder
from bnfold.adapters.onnx_graph import Model, model
from bnfold.adapters.onnx_skeleton import skeleton
from bnfold.adapters.onnx_wire import File, Memory
from bnfold.errors import BnfoldError
from bnfold.graph import Graph


def read(source: str | os.PathLike[str] | onnx.ModelProto, *, freeze_inputs: bool = False) -> Graph:
    """Read a model as a Graph, arithmetic as it stands. Weights are read, from the file, when they are asked for.

    freeze_inputs: initializers that are inputs too are constants, though a caller could override them.
    Raises BnfoldError where it is no valid ONNX model, UnsafeError where its external data leads out of its folder.
    """
    if isinstance(source, onnx.ModelProto):
        return in_memory(source, freeze_inputs).graph
    return of_file(Path(source), freeze_inputs).graph


def of_file(path: Path, freeze_inputs: bool) -> Model:
    """Read a file, which stays open as long as the Model is referred to."""
    return model(skeleton(File(path)), Folder(path), freeze_inputs)


def in_memory(proto: onnx.ModelProto, freeze_inputs: bool) -> Model:
    """Read a ModelProto."""
    try:
        data = proto.SerializeToString()
    except ValueError as error:  # protobuf's limit is 2 GiB
        raise BnfoldError(f"the ModelProto can't be serialised ({error}); give the path of its file") from error
    return model(skeleton(Memory(data, "ModelProto")), None, freeze_inputs)
