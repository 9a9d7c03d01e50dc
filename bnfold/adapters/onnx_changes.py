"""What an edited model means for the file: names for new tensors, renamed values, and what nobody reads any more."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import field

from bnfold.adapters.onnx_content import Content
from bnfold.adapters.onnx_model import Initializer, Model
from bnfold.adapters.onnx_protos import NodeProto
from bnfold.adapters.onnx_scopes import FileNode, Scope
from bnfold.adapters.onnx_skeleton import NODE_INPUT, NODE_OUTPUT
from bnfold.adapters.onnx_work import Edited, Use, Work
from bnfold.affine import Chains
from bnfold.record import record

_PARTS = {  # what an operand is called, by operator and index
    ("Conv", 2): "bias",
    ("ConvTranspose", 2): "bias",
    ("Gemm", 2): "bias",
    ("LSTM", 3): "bias",
    ("GRU", 3): "bias",
    ("RNN", 3): "bias",
    ("Mul", 1): "scale",
    ("Add", 1): "shift",
    ("Max", 1): "min",
    ("Min", 1): "max",
    ("BatchNormalization", 1): "scale",
    ("BatchNormalization", 2): "shift",
    ("BatchNormalization", 3): "mean",
    ("BatchNormalization", 4): "var",
}


@record(eq=False)
class NewTensor:
    """An initializer to be written. replaces: the one whose place it takes; None: it comes after those of its scope."""

    scope: Scope
    name: str  # in the file
    content: Content
    replaces: Initializer | None


@record(eq=False, frozen=False)
class Changes:
    """The file's changes, in its own names.

    nodes: what stands in a node's place. names: the same node with other names for some of its inputs (field 1 of a
    NodeProto) and outputs (field 2), by field and index. dropped: initializers, by their names in the Graph.
    gone: by id of the scope, the values whose value_info goes. inputs_gone: inputs of the main graph. lost: by id of
    the scope, the bodies of nodes that go.
    """

    nodes: dict[FileNode, list[NodeProto]] = field(default_factory=dict)
    names: dict[FileNode, dict[tuple[int, int], str]] = field(default_factory=dict)
    tensors: list[NewTensor] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    gone: dict[int, set[str]] = field(default_factory=dict)
    inputs_gone: set[str] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)


def changes(model: Model, edited: Edited, frames: Chains) -> Changes:
    """Settle every name. frames: the plan's; where a removed affine's output keeps its numbers, it keeps its name."""
    return _Settling(model, edited, frames).run()


class _Settling:
    def __init__(self, model: Model, edited: Edited, frames: Chains) -> None:
        self.model, self.edited, self.frames = model, edited, frames
        self.result = Changes()
        self.local = {name: short for scope in model.scopes.scopes for short, name in scope.names.items()}
        self.scope_of = {name: scope for scope in model.scopes.scopes for name in scope.names.values()}
        self.taken = set(self.local.values()) | set(self.local)
        self.outputs = set(model.graph.outputs)
        self.renamed: dict[str, str] = {}
        self.changed: set[str] = set()  # initializers that get other numbers

    def run(self) -> Changes:
        """Names first, then tensors, then what is dead."""
        self._name_values()
        self._place_tensors()
        self._drop_unread()
        if self.model.dead:
            self._drop_dead()
        self._freeze()
        for work in self.edited.works.values():
            self._write_node(work)
        self._forget_values()
        return self.result

    # Values.

    def _name_values(self) -> None:
        """A value that is gone is read under the name of the one in its place; or that one takes its name."""
        makers = {name: work for work in self._final() for name in work.outputs if name}
        for gone in sorted(self.edited.alias, key=lambda name: name not in self.outputs):  # outputs choose first
            root = self._root(gone)
            maker = makers.get(root)
            near = maker is not None and self.scope_of[gone] is maker.node.scope
            free = near and root not in self.outputs and root not in self.renamed
            if gone in self.outputs and not free:
                self._identity(gone, root)
            elif free and (gone in self.outputs or (gone not in self.frames and root in self.frames)):
                self.renamed[root] = gone
        names = {name: self._name(name) for name in (*self.edited.alias, *self.renamed)}
        for work in self._final():
            work.inputs = [names.get(name, name) for name in work.inputs]
            work.outputs = [names.get(name, name) for name in work.outputs]

    def _root(self, name: str) -> str:
        while name in self.edited.alias:
            name = self.edited.alias[name]
        return name

    def _name(self, name: str) -> str:
        root = self._root(name)
        return self.renamed.get(root, root)

    def _identity(self, gone: str, root: str) -> None:
        """An output that is another value, which has to keep its own name."""
        from onnx import helper

        work = next(w for w in self.edited.works.values() if gone in w.outputs)
        work.dropped = False
        proto = helper.make_node("Identity", [], [], name=work.node.proto.name)
        work.replaced = [Work(work.node, [root], [gone], proto)]
        self.edited.alias = {k: v for k, v in self.edited.alias.items() if k != gone}

    def _final(self) -> list[Work]:
        return [step for work in self.edited.works.values() for step in work.final]

    def _living(self) -> list[Work]:
        dead = self.model.dead
        return [step for work in self.edited.works.values() if work.node not in dead for step in work.final]

    # Tensors.

    def _place_tensors(self) -> None:
        """Write in place where all readers want the same numbers, as a tensor of its own where they don't."""
        by_old: dict[str, list[list[Use]]] = {}
        for use in self.edited.uses:
            groups = by_old.setdefault(use.old, [])
            same = next((g for g in groups if g[0].content.same_as(use.content)), None) if use.old else None
            if same is None:
                groups.append([use])
            else:
                same.append(use)
        uses = Counter(use.old for use in self.edited.uses)
        readers = Counter([name for work in self._living() for name in work.inputs])
        for old, group in ((old, group) for old, groups in by_old.items() for group in groups):
            alone = bool(old) and len(group) == uses[old] == readers[old] and old not in self.outputs
            self._place(group, old, alone)

    def _place(self, group: list[Use], old: str, alone: bool) -> None:
        first = group[0]
        held = self.model.initializers.get(old)
        scope = held.scope if held is not None else _around([use.work.node.scope for use in group])
        if alone and held is not None and self._may_become(held, first.content):
            self.changed.add(old)
            self.result.tensors.append(NewTensor(scope, held.tensor.name, first.content, held))
            return
        if self.model.file.proto.ir_version < 4:  # initializers are inputs, which the body of an If can't have
            scope = self.model.scopes.main
        name = self._unique(self._wish(first, old))
        self.result.tensors.append(NewTensor(scope, name, first.content, None))
        qualified = scope.qualified(name)
        self.local[qualified] = name
        for use in group:
            use.work.inputs[use.index] = qualified

    def _may_become(self, held: Initializer, content: Content) -> bool:
        """Whether an initializer can get these numbers: one that is an input too has the shape that it is declared."""
        fits = held.scope.parent is None and content.shape == held.tensor.shape
        return fits or held.tensor.name not in {item.name for item in held.scope.graph.input}

    def _body_inputs(self, scope: Scope) -> set[str]:
        return set() if scope.parent is None else {item.name for item in scope.graph.input}

    def _wish(self, use: Use, old: str) -> str:
        if old and "#" not in old:
            return f"{self.local.get(old, old)}_folded"
        base = use.work.node.proto.name or use.work.node.proto.output[0]
        return f"{base}.{_PARTS.get((use.work.proto.op_type, use.index), f'constant{use.index}')}"

    def _unique(self, wish: str) -> str:
        name, number = wish, 2
        while name in self.taken:
            name, number = f"{wish}_{number}", number + 1
        self.taken.add(name)
        return name

    # What is dead, and what is frozen.

    def _drop_unread(self) -> None:
        """Take out what only edited nodes read: initializers, and nodes that depended on nothing else."""
        reads = Counter([name for work in self._living() for name in work.inputs])
        makers = {name: work for work in self.edited.works.values() for name in work.node.outputs if name}
        open_ends = [name for name in self.edited.touched if name]
        while open_ends:
            name = open_ends.pop()
            if reads[name] or name in self.outputs:
                continue
            maker = makers.get(name)
            if name in self.model.initializers:
                self._drop_initializer(name)
            elif maker is not None and not maker.dropped and not self._is_read(maker, reads):
                maker.dropped = True
                reads.subtract(maker.inputs)
                open_ends += maker.inputs

    def _drop_dead(self) -> None:
        """Take out the dead nodes that read what is gone, or has other numbers."""
        from bnfold.adapters.onnx_dead_work import drop_dead  # few models have any

        values = self.frames.keys() - self.model.known.keys()
        unread, self.result.lost = drop_dead(self.model, self.edited, values | self.changed | self.result.dropped)
        for name in unread - self.outputs:
            self._drop_initializer(name)

    def _is_read(self, work: Work, reads: Counter[str]) -> bool:
        outputs = [name for step in work.final for name in step.outputs if name]
        return bool(work.node.bodies) or any(reads[name] or name in self.outputs for name in outputs)

    def _drop_initializer(self, name: str) -> None:
        held = self.model.initializers[name]
        if name in self.model.overridable or held.tensor.name in self._body_inputs(held.scope):
            return
        self.result.dropped.add(name)
        if held.scope.parent is None:
            self.result.inputs_gone.add(held.tensor.name)

    def _freeze(self) -> None:
        if self.model.freeze_inputs and self.model.file.proto.ir_version >= 4:
            self.result.inputs_gone |= {item.name for item in self.model.scopes.main.graph.initializer}

    # The file.

    def _write_node(self, work: Work) -> None:
        if work.dropped:
            self.result.nodes[work.node] = []
            return
        same = work.replaced is None and work.proto is work.node.proto and len(work.inputs) == len(work.node.inputs)
        if not same:
            self.result.nodes[work.node] = [self._proto(step) for step in work.final]
            return
        if (*work.inputs,) == work.node.inputs and (*work.outputs,) == work.node.outputs:
            return
        old = {(NODE_INPUT, k): name for k, name in enumerate(work.node.proto.input)}
        old |= {(NODE_OUTPUT, k): name for k, name in enumerate(work.node.proto.output)}
        new = {(NODE_INPUT, k): self._short(name) for k, name in enumerate(work.inputs)}
        new |= {(NODE_OUTPUT, k): self._short(name) for k, name in enumerate(work.outputs)}
        if changed := {at: name for at, name in new.items() if old[at] != name}:
            self.result.names[work.node] = changed

    def _proto(self, step: Work) -> NodeProto:
        proto = NodeProto()
        proto.CopyFrom(step.proto)
        inputs = [self._short(name) for name in step.inputs]
        del proto.input[:]
        del proto.output[:]
        proto.input.extend(inputs)
        proto.output.extend(self._short(name) for name in step.outputs)
        return proto

    def _short(self, name: str) -> str:
        if not name:
            return ""
        return self.local.get(name) or self._unique_value(name)

    def _unique_value(self, name: str) -> str:
        """Name a value between two operators that stand for one."""
        short = self._unique(name.rpartition("/")[2] if "/" in name else name)
        self.local[name] = short
        return short

    def _forget_values(self) -> None:
        kept = {name for work in self._final() for name in work.outputs}
        for work in self.edited.works.values():
            gone = {self.local[name] for name in work.node.outputs if name and name not in kept}
            if gone:
                self.result.gone.setdefault(id(work.node.scope), set()).update(gone)


def _around(scopes: Sequence[Scope]) -> Scope:
    """Give the innermost graph whose values are visible in all of these."""
    found: Scope | None = scopes[0]
    while found is not None and not all(_is_within(scope, found) for scope in scopes):
        found = found.parent
    assert found is not None, "every graph is within the model's own"
    return found


def _is_within(scope: Scope | None, around: Scope) -> bool:
    while scope is not None and scope is not around:
        scope = scope.parent
    return scope is not None
