"""An ONNX file with its external data, read from the model's folder and nowhere else."""

import math
import re
from collections.abc import Iterable, Iterator
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
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BnfoldError(f"{path}: can't be read as ONNX: {why[:200]}") from error
    folder = Folder(path)
    for tensor in (*tensors(model.graph), *(x for function in model.functions for x in _of_nodes(function.node))):
        if tensor.data_location == TensorProto.EXTERNAL:
            _bring_in(path, folder, tensor)
    return model


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Give every stored tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from tensors(inner)


def _bring_in(path: Path, folder: Folder, tensor: onnx.TensorProto) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = folder.file(entries.get("location", ""))
    numbers = [entries.get(key) or "0" for key in ("offset", "length")]
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
        raise BnfoldError(f"{path}: tensor {tensor.name!r} is at offset {numbers[0]!r}, length {numbers[1]!r}")
    offset, size = map(int, numbers)
    try:
        size = size or math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise BnfoldError(f"{path}: tensor {tensor.name!r} has no dtype that is known: {tensor.data_type}") from error
    if not 0 <= size <= file.size - offset:
        raise BnfoldError(
            f"{path}: tensor {tensor.name!r} wants {size} bytes of {entries['location']!r}, which has"
            f" {max(file.size - offset, 0)} from {offset} on"
        )
    data = file.read(offset, size)
    tensor.raw_data = data
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
