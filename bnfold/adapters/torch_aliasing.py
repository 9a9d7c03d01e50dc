"""Updates in place that a fold would let reach further: a BatchNorm gives a tensor of its own, Identity its input."""

from collections.abc import Collection, Iterable

from torch import fx, nn

from bnfold.adapters import torch_parts
from bnfold.adapters.torch_names import path_of
from bnfold.adapters.torch_nodes import changes_first, storage
from bnfold.adapters.torch_reading import Reading


def updates(reading: Reading) -> tuple[fx.Node, ...]:
    """The nodes that write to their first operand."""
    return tuple(node for node in reading.captured.graph.nodes if node.op == "call_function" and changes_first(node))


def is_overwritten(
    reading: Reading, module: nn.Module, node: fx.Node, writes: Iterable[fx.Node], relied: Collection[str] = ()
) -> bool:
    """Whether one of `writes` would change what others read, were the node's output its input.

    Activations that are modules don't count where they write to the output: they can be told to copy, all but those at
    the paths `relied`.
    """
    source = next(iter(node.all_input_nodes), None)
    before, after = storage(source), storage(node)
    if source is None or before is None or before == after:
        return False
    for write in writes:
        memory = storage(write.args[0])
        if memory == before and node < write:
            return True
        copies = _may_copy(module, write) and path_of(write) not in relied
        if memory == after and not copies and _is_read_after(reading, before, write):
            return True
    return False


def _may_copy(module: nn.Module, write: fx.Node) -> bool:
    part = torch_parts.find(module, path_of(write))
    return part is not None and getattr(part, "inplace", None) is True


def _is_read_after(reading: Reading, memory: int, write: fx.Node) -> bool:
    """Whether anybody reads this memory after the write, or the caller owns it."""
    shown = [other for other in reading.captured.graph.nodes if storage(other) == memory]
    return any(other.op == "placeholder" or any(write < user for user in other.users) for other in shown)
