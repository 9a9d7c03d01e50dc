"""An ONNX file with its external data, read from the model's folder and nowhere else."""

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bnfold.adapters.onnx_external import Folder
from bnfold.errors import BnfoldError


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read a model whole. `BnfoldError` for a malformed or truncated file, `UnsafeError` for data out of its folder."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise BnfoldError(f"{path}: can't be read as ONNX: {str(error).splitlines()[0][:200]}") from error
    folder = Folder(path)
    for tensor in tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            _bring_in(path, folder, tensor)
    return model


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Give every stored tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from tensors(inner)


def _bring_in(path: Path, folder: Folder, tensor: onnx.TensorProto) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    size = int(entries.get("length") or math.prod(tensor.dims) * kind.itemsize)
    data = folder.file(entries.get("location", "")).read(int(entries.get("offset") or 0), size)
    if len(data) != size:
        raise BnfoldError(
            f"{path}: tensor {tensor.name!r} wants {size} bytes of {entries['location']!r}, which has {len(data)}"
        )
    tensor.raw_data = data
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
