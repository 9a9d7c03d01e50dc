"""One of two ONNX files that are compared: where all that can differ stands, tensors left in the file."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from bnfold.adapters.onnx_external import Folder
from bnfold.adapters.onnx_functions import paired
from bnfold.adapters.onnx_protos import AttributeProto
from bnfold.adapters.onnx_scopes import FileNode, Scopes, scopes
from bnfold.adapters.onnx_skeleton import (
    ATTRIBUTE,
    ATTRIBUTE_TENSOR,
    ATTRIBUTE_TENSORS,
    FUNCTION,
    INITIALIZER,
    NODE,
    Skeleton,
    skeleton,
)
from bnfold.adapters.onnx_tensors import Tensor, tensor
from bnfold.adapters.onnx_wire import Field, File
from bnfold.record import record

_SPARSE = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)
_CHUNK = 1 << 20


@record(eq=False)
class Side:
    """A file. tensors: its initializers, by their names in the Graph."""

    file: Skeleton
    folder: Folder
    scopes: Scopes
    tensors: Mapping[str, Tensor]

    @property
    def nodes(self) -> dict[str, FileNode]:
        """By name."""
        return {node.name: node for node in self.scopes.nodes}

    def functions(self) -> dict[str, str]:
        """Give a digest of each local function, by its domain, name and overload."""
        places = self.file.layout(0, self.file.source.size).get(FUNCTION, [])
        return {
            ".".join(filter(None, (proto.domain, proto.name, proto.overload))): self._digest([place])
            for proto, place in paired(self.file.proto.functions, places, self.file)
        }

    def rest(self, around: Field | None, told: Collection[int]) -> dict[int, str]:
        """Give a digest of each field of a message (None: the model) that isn't told by itself, by its number."""
        start, end = (0, self.file.source.size) if around is None else (around.body, around.end)
        layout = self.file.layout(start, end)
        return {number: self._digest(places) for number, places in layout.items() if number not in told}

    def held(self, node: FileNode) -> dict[str, Tensor]:
        """Give the tensors among a node's attributes, by the attributes' names."""
        found = {}
        for item, place in self._attributes(node):
            if item.HasField("t") or item.tensors:
                inside = self.file.layout(place.body, place.end)
                places = [*inside.get(ATTRIBUTE_TENSOR, [])[-1:], *inside.get(ATTRIBUTE_TENSORS, [])]
                protos = [*([item.t] if item.HasField("t") else []), *item.tensors]
                for number, (proto, at) in enumerate(paired(protos, places, self.file)):
                    name = f"{item.name}[{number}]" if number else item.name
                    found[name] = tensor(proto, at.body, self.file, self.folder)
        return found

    def attributes(self, node: FileNode) -> dict[str, bytes]:
        """Give the content of a node's attributes, but for tensors and bodies, which are told by themselves."""
        found = {}
        for item, place in self._attributes(node):
            if item.type in _SPARSE:
                found[item.name] = self._digest([place]).encode()
            elif not (item.HasField("g") or item.graphs or item.HasField("t") or item.tensors):
                found[item.name] = item.SerializeToString(deterministic=True)
        return found

    def _attributes(self, node: FileNode) -> list[tuple[AttributeProto, Field]]:
        around = node.scope.path[-1]
        place = self.file.layout(around.body, around.end)[NODE][node.index]
        places = self.file.layout(place.body, place.end).get(ATTRIBUTE, [])
        return paired(node.proto.attribute, places, self.file)

    def _digest(self, places: list[Field]) -> str:
        digest = hashlib.sha256()
        for place in places:
            digest.update(f"{place.value} {place.end - place.body} ".encode())
            for start in range(place.body, place.end, _CHUNK):
                digest.update(self.file.source.exactly(start, min(_CHUNK, place.end - start)))
        return digest.hexdigest()


def opened(path: Path) -> Side:
    """Open a file.

    Raises BnfoldError where it is no valid model, UnsafeError where external data leads out of its folder.
    """
    file = skeleton(File(path))
    found, folder = scopes(file, file.proto), Folder(path)
    return Side(file, folder, found, dict(_initializers(file, folder, found)))


def _initializers(file: Skeleton, folder: Folder, found: Scopes) -> Iterator[tuple[str, Tensor]]:
    for scope in found.scopes:
        around = scope.path[-1]
        places = file.layout(around.body, around.end).get(INITIALIZER, [])
        for proto, place in paired(scope.graph.initializer, places, file):
            yield scope.qualified(proto.name), tensor(proto, place.body, file, folder)
