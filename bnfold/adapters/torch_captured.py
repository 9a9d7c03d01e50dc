"""A forward as a graph of ATen operators: what is read of a capture, whoever made it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(frozen=True, eq=False)
class Captured:
    """A graph whose nodes tell their module (`nn_module_stack`) and what they give (`val`, static shapes).

    weights: by the name of a placeholder, the path of the weight that it stands for. tensors: by path, the weight.
    written: the names of placeholders that get other numbers at the end of a run.
    """

    graph: fx.Graph
    weights: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    written: frozenset[str] = frozenset()


def of_program(program: ExportedProgram) -> Captured:
    """Give what a program holds."""
    signature = program.graph_signature
    weights = {spec.arg.name: str(spec.target) for spec in signature.input_specs if spec.kind in _WEIGHTS}
    targets = {spec.arg.name: spec.target for spec in signature.output_specs if spec.kind != OutputKind.USER_OUTPUT}
    by_target = {spec.target: spec.arg.name for spec in signature.input_specs if spec.target is not None}
    written = {by_target[target] for name, target in targets.items() if by_target.get(target, name) != name}
    held = {**program.constants, **program.state_dict}
    tensors = {path: item for path, item in held.items() if isinstance(item, Tensor)}
    return Captured(program.graph, weights, tensors, frozenset(written))
