"""An exported program under change: its graph, its signature and its weights, kept in step."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
)

from bnfold.adapters.torch_names import value_name
from bnfold.adapters.torch_nodes import acts
from bnfold.adapters.torch_numbers import finite, rounded
from bnfold.affine import Floats


class ProgramGraph:
    """A copy of a program's graph. by_name: what stands for each of its nodes, and of the values they give, now."""

    def __init__(self, original: ExportedProgram) -> None:
        self.original = original
        self.module = _copied(original.graph_module)
        self.weights = {*original.state_dict, *original.constants}
        self.by_name: dict[str, fx.Node] = {}
        for node in self.module.graph.nodes:
            self.by_name |= {node.name: node, value_name(node.name, self.weights): node}
        self.state: dict[str, Tensor] = dict(original.state_dict)
        self.versions: dict[str, list[tuple[fx.Node, Tensor]]] = {}  # parameters that were added, by what they are of
        self.wanted: dict[str, str] = {}  # the path that a parameter should have, where that was taken
        self.inputs = list(original.graph_signature.input_specs)
        self.outputs = list(original.graph_signature.output_specs)
        self.fake_mode = _fake_mode(self.module)

    def parameter(self, path: str, numbers: Floats, dtype: torch.dtype, of: str = "") -> tuple[fx.Node, Tensor]:
        """Add a parameter, float64 numbers rounded once to `dtype`; gives its placeholder and itself.

        of: what it is a version of. Where there is one with the same numbers already, that is given: a layer that is
        called twice keeps one weight. Its name is `path`, or that with underscores where what has it stays.
        Raises BnfoldError where the dtype overflows.
        """
        path = wanted = re.sub(r"[^\w.]", "_", path)
        while path in self.state or any(spec.target == path for spec in self.inputs):
            path += "_"
        old = next(iter(self.state.values()), None)
        device = old.device if old is not None else torch.device("cpu")
        tensor = finite(path, rounded(numbers, torch.empty(0, dtype=dtype, device=device)))
        for known in self.versions.get(of, []) if of else []:
            if known[1].dtype == dtype and torch.equal(known[1], tensor):
                return known
        self.state[path] = nn.Parameter(tensor, requires_grad=False)
        first = next(node for node in self.module.graph.nodes if node.op == "placeholder" or node.op == "output")
        with self.module.graph.inserting_before(first):
            node: fx.Node = self.module.graph.placeholder(f"p_{re.sub(r'[^a-zA-Z0-9_]', '_', path)}")
        node.meta["val"] = self.fake_mode.from_tensor(tensor, static_shapes=True)
        self.inputs.insert(0, InputSpec(InputKind.PARAMETER, TensorArgument(node.name), path))
        self.versions.setdefault(of, []).append((node, tensor))
        if path != wanted:
            self.wanted[path] = wanted
        return node, tensor

    def bypass(self, old: fx.Node, new: fx.Node) -> None:
        """Let the readers of a node, the program's outputs among them, read another one."""
        old.replace_all_uses_with(new)
        self.outputs = [_renamed(spec, old.name, new.name) for spec in self.outputs]

    def replace(self, old: fx.Node, build: Callable[[fx.Graph], fx.Node]) -> None:
        """Put what `build` makes in the place of a node; what it reads of the old one stays."""
        with self.module.graph.inserting_before(old.next):
            new = build(self.module.graph)
        new.meta.update(old.meta)
        self._bypass_but(old, new)

    def _bypass_but(self, old: fx.Node, new: fx.Node) -> None:
        made = {new, *new.all_input_nodes}
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in made)
        self.outputs = [_renamed(spec, old.name, new.name) for spec in self.outputs]
        self.by_name |= {old.name: new, value_name(old.name, self.weights): new}

    def finished(self) -> ExportedProgram:
        """Give the program, without what nobody reads any more."""
        graph = self.module.graph
        graph.eliminate_dead_code(acts)
        self._drop_unused()
        self._take_over_names()
        graph.lint()
        self.module.recompile()
        program = self.original
        signature = ExportGraphSignature(self.inputs, self.outputs)
        return ExportedProgram(
            root=self.module,
            graph=graph,
            graph_signature=signature,
            state_dict=self.state,
            range_constraints=program.range_constraints,
            module_call_graph=program.module_call_graph,
            example_inputs=program.example_inputs,
            constants=program.constants,
            verifiers=program.verifiers,
        )

    def _drop_unused(self) -> None:
        """Leave out the weights that nobody reads any more."""
        used = {node.name: node for node in self.module.graph.nodes if node.op == "placeholder"}
        weights = (InputKind.PARAMETER, InputKind.BUFFER)
        written = {spec.target for spec in self.outputs if spec.target is not None}
        kept = []
        for spec in self.inputs:
            node = used[spec.arg.name]
            if spec.kind in weights and not node.users and spec.target not in written:
                self.module.graph.erase_node(node)
                self.state.pop(str(spec.target), None)
            else:
                kept.append(spec)
        self.inputs = kept

    def _take_over_names(self) -> None:
        """Give parameters the paths that became free, and the old weights' places in the order."""
        taken = {spec.target for spec in self.inputs}
        new = {path: wanted for path, wanted in self.wanted.items() if path in taken and wanted not in taken}
        times = Counter(new.values())
        new = {path: wanted for path, wanted in new.items() if times[wanted] == 1}
        self.inputs = [replace(spec, target=new.get(str(spec.target), spec.target)) for spec in self.inputs]
        named = {new.get(path, path): item for path, item in self.state.items()}
        old = [path for path in self.original.state_dict if path in named]
        self.state = {path: named[path] for path in dict.fromkeys([*old, *named])}


def _copied(module: fx.GraphModule) -> fx.GraphModule:
    """Copy the graph, and share what its nodes say of their tensors: deep copies have symbols of their own."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in module.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].name = node.name
    return fx.GraphModule(module, graph)


def _renamed(spec: OutputSpec, old: str, new: str) -> OutputSpec:
    if isinstance(spec.arg, TensorArgument) and spec.arg.name == old:
        return OutputSpec(spec.kind, TensorArgument(new), spec.target)
    return spec


def _fake_mode(module: fx.GraphModule) -> FakeTensorMode:
    for node in module.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode  # type: ignore[no-any-return]
    return FakeTensorMode()
