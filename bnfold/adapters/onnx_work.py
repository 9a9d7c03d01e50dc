"""A file's nodes and constants while a plan is carried out on them."""

from collections.abc import Mapping, Sequence
from dataclasses import field

from bnfold.adapters.onnx_content import Content
from bnfold.adapters.onnx_protos import NodeProto
from bnfold.adapters.onnx_scopes import FileNode
from bnfold.affine import Floats
from bnfold.record import record


@record(eq=False, frozen=False)
class Work:
    """A node of the file while it is edited. replaced: the nodes that stand in its place, where it is another one."""

    node: FileNode
    inputs: list[str]
    outputs: list[str]
    proto: NodeProto
    dropped: bool = False
    replaced: list["Work"] | None = None

    @property
    def final(self) -> Sequence["Work"]:
        """What stands in the file afterwards."""
        if self.dropped:
            return ()
        return (self,) if self.replaced is None else self.replaced

    def rebuild(
        self, op_type: str = "", attributes: Mapping[str, float | int] | None = None, without: Sequence[str] = ()
    ) -> None:
        """Change the node's type or some of its attributes."""
        from onnx import helper

        new = attributes or {}
        proto = NodeProto()
        proto.CopyFrom(self.proto)
        proto.op_type = op_type or proto.op_type
        kept = [item for item in proto.attribute if item.name not in new and item.name not in without]
        del proto.attribute[:]
        proto.attribute.extend(kept)
        proto.attribute.extend(helper.make_attribute(name, value) for name, value in new.items())
        self.proto = proto


@record(eq=False)
class Use:
    """Operand `index` of `work` gets new numbers, in the place of the constant `old` (empty: of none)."""

    work: Work
    index: int
    content: Content
    old: str


@record(eq=False, frozen=False)
class Edited:
    """Every node of the file with what becomes of it. alias: a value that is gone, and the one that took its place."""

    works: dict[str, Work]
    uses: list[Use] = field(default_factory=list)
    alias: dict[str, str] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)  # names that edited nodes read before
    merged: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)  # weight and bias by the Sum's name
