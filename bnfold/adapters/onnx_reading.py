"""A file as folding reads it, calls of local functions replaced; and as it is written, with only some replaced."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bnfold.adapters.onnx_external import Folder
from bnfold.adapters.onnx_graph import model
from bnfold.adapters.onnx_model import Model
from bnfold.adapters.onnx_scopes import FileNode
from bnfold.adapters.onnx_skeleton import Skeleton
from bnfold.graph import Graph
from bnfold.plan import Edit, Merge, Plan
from bnfold.record import record

if TYPE_CHECKING:  # few models have functions: what replaces their calls is imported when it is needed
    from bnfold.adapters.onnx_inline import Call, Inlining


@record(eq=False)
class Reading:
    """model: what folding sees. inlining: how calls became a part of it; None where nothing is called."""

    model: Model
    file: Skeleton
    inlining: "Inlining | None"

    def written(self, graph: Graph, plan: Plan) -> Model:
        """Give the model that the plan's edits are carried out in: calls that they leave alone are calls.

        graph: the raised Graph of `model`, which the plan was made for.
        """
        if self.inlining is None or not self.inlining.calls:
            return self.model
        from bnfold.adapters.onnx_inline import Inlining

        chosen = self._touched(graph, plan)
        read = self.model
        file = Inlining(self.inlining.functions, chosen).file if chosen else self.file
        found = model(file, read.folder, read.freeze_inputs)
        return found if self._agrees(found) else read

    def _touched(self, graph: Graph, plan: Plan) -> "set[Call]":
        """Find the calls that hold what an edit changes, or a constant that it reads; and the calls around those."""
        assert self.inlining is not None
        makers = {name: node for node in self.model.scopes.nodes for name in node.outputs if name}
        by_name = {node.name: node for node in self.model.scopes.nodes}
        ahead = [by_name[name] for edit in plan.edits for name in _sources(edit, graph) if name in by_name]
        seen: set[FileNode] = set()
        found: set[Call] = set()
        while ahead:
            node = ahead.pop()
            if node in seen:
                continue
            seen.add(node)
            call = self.inlining.calls.get(node.proto.name, ())
            found |= {call[:depth] for depth in range(1, len(call) + 1)}
            constants = (name for name in node.inputs if name in self.model.known or name in graph.constants)
            ahead += [makers[name] for name in constants if name in makers]
        return found

    def _agrees(self, found: Model) -> bool:
        """Whether nodes go by the same names in both: names that aren't unique depend on the nodes before them."""
        from bnfold.adapters.onnx_functions import key_of

        assert self.inlining is not None
        outputs = {node.name: node.outputs for node in self.model.scopes.nodes}
        functions = self.inlining.functions.by_key
        return all(
            outputs.get(node.name) == node.outputs or key_of(node.proto) in functions for node in found.scopes.nodes
        )


def reading(file: Skeleton, folder: Folder | None, freeze_inputs: bool) -> Reading:
    """Read a file's structure. Raises BnfoldError where the model is no valid one."""
    if not file.proto.functions:
        return Reading(model(file, folder, freeze_inputs), file, None)
    from bnfold.adapters.onnx_functions import Functions
    from bnfold.adapters.onnx_inline import Inlining

    inlining = Inlining(Functions(file))
    return Reading(model(inlining.file if inlining.calls else file, folder, freeze_inputs), file, inlining)


def _sources(edit: Edit, graph: Graph) -> Iterator[str]:
    """Give the names of the file's nodes that an edit changes."""
    names: Iterable[str] = edit.nodes if isinstance(edit, Merge) else (edit.node,)
    for name in names:
        yield from (graph.by_name[name].sources or (name,)) if name in graph.by_name else ()
