"""An ONNX file that has been read: what is known of it, and the Graph that folding sees."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import field
from functools import cached_property

from bnfold.adapters.onnx_constants import Known
from bnfold.adapters.onnx_dead import dead_nodes
from bnfold.adapters.onnx_external import Folder
from bnfold.adapters.onnx_scopes import FileNode, Scope, Scopes
from bnfold.adapters.onnx_skeleton import Skeleton
from bnfold.adapters.onnx_tensors import Tensor
from bnfold.adapters.onnx_wire import Field
from bnfold.errors import BnfoldError
from bnfold.graph import Graph, Node, Value
from bnfold.record import record


@record(eq=False)
class Initializer:
    """An initializer, and where it is: the index-th of its graph, its field in the file."""

    tensor: Tensor
    scope: Scope
    index: int
    place: Field


@record(eq=False, slots=False, frozen=False)
class Model:
    """An ONNX file that has been read: its graphs, what is known before the run, and the Graph that folding sees."""

    file: Skeleton
    folder: Folder | None
    freeze_inputs: bool
    scopes: Scopes
    known: dict[str, Known] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, "Initializer"] = field(default_factory=dict)  # by their names in the Graph
    dequantized: set[str] = field(default_factory=set)  # constants that depend on a DequantizeLinear
    completed: set[str] = field(default_factory=set)  # values of which more is known than ONNX's inference says

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.file.source.name

    @cached_property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 where the model imports none."""
        return max((item.version for item in self.file.proto.opset_import if item.domain in ("", "ai.onnx")), default=0)

    @cached_property
    def functions(self) -> frozenset[tuple[str, str]]:
        """The local functions, which take the place of the operators of their names."""
        return frozenset((item.domain, item.name) for item in self.file.proto.functions)

    @cached_property
    def overridable(self) -> frozenset[str]:
        """The initializers that are inputs too, whose numbers are defaults: from IR version 4 on, unless frozen."""
        if self.freeze_inputs or self.file.proto.ir_version < 4:
            return frozenset()
        graph = self.scopes.main.graph
        return frozenset(item.name for item in graph.input) & {item.name for item in graph.initializer}

    @cached_property
    def dead(self) -> frozenset[FileNode]:
        """The nodes that no output depends on, and those of their bodies; no fold counts them."""
        return dead_nodes(self.scopes, self.file.proto)

    @cached_property
    def living(self) -> list[Scope]:
        """The graphs of the file, but for the bodies of dead nodes."""
        lost = {id(body) for node in self.dead for body in node.bodies}
        return [scope for scope in self.scopes.scopes if id(scope) not in lost]

    @cached_property
    def shared(self) -> frozenset[str]:
        """The values that are read more than once, but by dead nodes."""
        reads = Counter(name for node in self.scopes.nodes if node not in self.dead for name in node.inputs)
        reads.update(name for scope in self.living for name in self._outputs(scope))
        return frozenset(name for name, count in reads.items() if count > 1)

    @cached_property
    def graph(self) -> Graph:
        """What folding sees. Arithmetic stands as it is, for `bnfold.raising`."""
        read = {name for node in self.nodes for name in node.inputs}
        produced = {name for node in self.nodes for name in node.outputs}
        outputs = tuple(dict.fromkeys(name for scope in self.living for name in self._outputs(scope)))
        constants = {name: item.constant() for name, item in self.known.items() if name not in produced}
        given = tuple(name for name in self.values if name not in produced)
        kept = {name: item for name, item in constants.items() if name in read or name in outputs}
        return Graph(given, outputs, tuple(self.nodes), self.values, kept)

    def _outputs(self, scope: Scope) -> Iterator[str]:
        for item in scope.graph.output:
            found = scope.resolve(item.name)
            if found is None:
                raise BnfoldError(
                    f"{self.name}: output {item.name!r} of graph {scope.graph.name!r} is computed by no node"
                )
            yield found
