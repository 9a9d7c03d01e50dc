"""Updates in place that a fold would let reach further: a BatchNorm gives a tensor of its own, Identity its input."""

from collections.abc import Collection

from torch import fx, nn

from bnfold.adapters import torch_parts
from bnfold.adapters.torch_names import path_of
from bnfold.adapters.torch_nodes import changes_first, storage
from bnfold.adapters.torch_reading import Reading


class Updates:
    """The nodes that write to their first operand, and what shows the memory that they write to.

    relied: the paths of activations that go on working in place.
    """

    def __init__(self, reading: Reading, module: nn.Module, relied: Collection[str] = ()) -> None:
        self.module = module
        self.relied = relied
        self._writes: dict[int | None, list[fx.Node]] = {}
        self._shown: dict[int | None, list[fx.Node]] = {}
        for node in reading.captured.graph.nodes:
            self._shown.setdefault(storage(node), []).append(node)
            if node.op == "call_function" and changes_first(node):
                self._writes.setdefault(storage(node.args[0]), []).append(node)

    def overwrite(self, node: fx.Node) -> bool:
        """Whether one of them would change what others read, were the node's output its input.

        Activations that are modules don't count where they write to the output: they can be told to copy.
        """
        source = next(iter(node.all_input_nodes), None)
        before, after = storage(source), storage(node)
        if source is None or before is None or before == after:
            return False
        if any(node < write for write in self._writes.get(before, ())):
            return True
        writes = (write for write in self._writes.get(after, ()) if not self._may_copy(write))
        return any(self._is_read_after(before, write) for write in writes)

    def _may_copy(self, write: fx.Node) -> bool:
        path = path_of(write)
        part = torch_parts.find(self.module, path)
        return part is not None and getattr(part, "inplace", None) is True and path not in self.relied

    def _is_read_after(self, memory: int, write: fx.Node) -> bool:
        """Whether anybody reads this memory after the write, or the caller owns it."""
        shown = self._shown.get(memory, ())
        return any(other.op == "placeholder" or any(write < user for user in other.users) for other in shown)
