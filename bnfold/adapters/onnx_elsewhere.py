"""External data of what is no initializer: tensors of attributes, functions and training information, sparse ones."""

from collections.abc import Iterator
from typing import TypeAlias

from bnfold.adapters.onnx_protos import AttributeProto, TensorProto
from bnfold.adapters.onnx_skeleton import FUNCTION, GRAPH, SCHEMA, SPARSE, TRAINING, Skeleton
from bnfold.adapters.onnx_wire import Field

Fields: TypeAlias = tuple[Field, ...]  # the fields around a message, from the model's own down
_DATA_LOCATION = 14  # of a TensorProto
_A = AttributeProto
_WITHOUT_TENSORS = frozenset({_A.FLOAT, _A.INT, _A.STRING, _A.FLOATS, _A.INTS, _A.STRINGS, _A.GRAPH, _A.GRAPHS})


def tensors_elsewhere(file: Skeleton) -> Iterator[tuple[Fields, Field]]:
    """Find those that no node of the graph holds: the fields around each, and its own."""
    model = file.layout(0, file.source.size)
    for number, kind in ((FUNCTION, "function"), (TRAINING, "training")):
        for place in model.get(number, []):
            yield from tensors_within(kind, (place,), file)
    (graph,) = model[GRAPH]
    for place in file.layout(graph.body, graph.end).get(SPARSE, []):
        yield from tensors_within("sparse", (graph, place), file)


def tensors_within(kind: str, path: Fields, file: Skeleton) -> Iterator[tuple[Fields, Field]]:
    """Find those of one message of a kind that `SCHEMA` has. path: the fields around it, its own the last."""
    for number, places in file.layout(path[-1].body, path[-1].end).items():
        inner = SCHEMA[kind].get(number)
        for place in places if inner else ():
            if inner == "tensor":
                location = file.layout(place.body, place.end).get(_DATA_LOCATION, [])
                if location and location[-1].value == TensorProto.EXTERNAL:
                    yield path, place
            elif inner:
                yield from tensors_within(inner, (*path, place), file)


def holds_external(attribute: AttributeProto) -> bool:
    """Whether external data is among the attribute's tensors, or may be, where they are sparse."""
    if attribute.type in _WITHOUT_TENSORS:
        return False
    tensors = (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
    is_sparse = attribute.HasField("sparse_tensor") or bool(attribute.sparse_tensors)
    return is_sparse or any(item.data_location == TensorProto.EXTERNAL for item in tensors)
