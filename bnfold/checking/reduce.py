"""Two differing ONNX models, cut down to the smallest pair found that still differs, as two ONNX files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from bnfold.atomic import replacing
from bnfold.checking.onnx_files import load_onnx
from bnfold.checking.result import Verdict
from bnfold.errors import BnfoldError
from bnfold.formats import Kind, kind_of


@dataclass(frozen=True)
class Reduced:
    """The two files, and how many nodes are left on each side."""

    reference: Path
    candidate: Path
    nodes: tuple[int, int]

    @property
    def sentence(self) -> str:
        """Say what was written."""
        return f"reduced to {self.nodes[0]} and {self.nodes[1]} nodes: {self.reference} {self.candidate}"


@dataclass(frozen=True)
class Cut:
    """A part of a model: the values that it starts from, and the one that it gives."""

    inputs: tuple[str, ...]
    output: str


def reduce_files(reference: Path, candidate: Path, folder: Path, *, by_position: bool = False) -> Reduced:
    """Write the smallest differing parts of two ONNX files to `folder`. `BnfoldError` where they can't be cut."""
    models = []
    for path in (reference, candidate):
        if kind_of(path) is not Kind.ONNX:
            raise BnfoldError(f"{path}: --reduce cuts ONNX files; export it first")
        models.append(load_onnx(path))
    parts = reduce_models(*models, by_position=by_position)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BnfoldError(f"{folder}: can't be made ({error.strerror}); choose another folder") from error
    paths = folder / f"{reference.stem}.reference.onnx", folder / f"{candidate.stem}.candidate.onnx"
    for path, part in zip(paths, parts, strict=True):
        with replacing(path) as temporary:
            onnx.save(part, temporary)
    return Reduced(*paths, (len(parts[0].graph.node), len(parts[1].graph.node)))


def reduce_models(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, *, by_position: bool = False
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Cut both down to where they part; a smaller pair is taken only if the check still tells it apart.

    Raises `BnfoldError` where the two do not differ, or where the values inside can't be laid side by side.
    """
    from bnfold.checking.run import check
    from bnfold.checking.torch_localise import parting

    found = parting(reference, candidate, by_position=by_position)
    if found is None:
        raise BnfoldError("nothing to reduce: no value inside the two differs beyond the budget")
    for agreed, shapes, ours, theirs in (found, found.from_the_start()):
        cuts = _cuts(reference, candidate, agreed, ours, theirs)
        if cuts is None:
            continue
        names = {b: a for a, b in zip(cuts[0].inputs, cuts[1].inputs, strict=True)} | {theirs: ours}
        parts = extract(reference, cuts[0], shapes, {}), extract(candidate, cuts[1], shapes, names)
        if check(*parts, localise=False, allow_folded_reference=True).verdict is Verdict.DIFFERENT:
            return parts
    raise BnfoldError("can't reduce: the two differ only as a whole")


def _cuts(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, agreed: Mapping[str, str], ours: str, theirs: str
) -> tuple[Cut, Cut] | None:
    """Walk back from the diverging pair to values that agree (`agreed`: candidate's name -> reference's)."""
    theirs_in = frontier(candidate.graph, theirs, set(agreed))
    if theirs_in is None:
        return None
    ours_in = frontier(reference.graph, ours, {agreed[name] for name in theirs_in})
    if ours_in is None:
        return None
    common = [name for name in theirs_in if agreed[name] in ours_in]
    return Cut(tuple(agreed[name] for name in common), ours), Cut(tuple(common), theirs)


def frontier(graph: onnx.GraphProto, output: str, stops: set[str]) -> list[str] | None:
    """Give the stops that `output` is computed from; None where it also needs a graph input that is no stop."""
    makers = {name: node for node in graph.node for name in node.output}
    free = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    reached: list[str] = []
    seen, queue = {output}, [output]
    while queue:
        name = queue.pop()
        if name in stops and name != output:
            reached.append(name)
        elif name in free:
            return None
        elif name in makers:
            fresh = [x for x in makers[name].input if x and x not in seen]
            seen.update(fresh)
            queue += fresh
    return sorted(reached)


def extract(
    model: onnx.ModelProto, cut: Cut, shapes: Mapping[str, Sequence[int]], names: Mapping[str, str]
) -> onnx.ModelProto:
    """Build the part of `model` inside `cut`; `shapes` of inputs by the reference's names, `names` renames values."""
    graph = model.graph
    needed, nodes = {cut.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output) and not set(node.output) <= set(cut.inputs):
            nodes.append(_renamed(node, names))
            needed |= {name for name in node.input if name not in cut.inputs}
    kinds = {x.name: x.type.tensor_type.elem_type for x in (*graph.input, *graph.value_info, *graph.output)}
    inputs = [
        helper.make_tensor_value_info(
            names.get(name, name), kinds.get(name, onnx.TensorProto.FLOAT), ["N", *shapes[names.get(name, name)][1:]]
        )
        for name in cut.inputs
    ]
    output = helper.make_tensor_value_info(
        names.get(cut.output, cut.output), kinds.get(cut.output, onnx.TensorProto.FLOAT), None
    )
    constants = [_renamed_tensor(tensor, names) for tensor in graph.initializer if tensor.name in needed]
    part = helper.make_graph(nodes[::-1], "reduced", inputs, [output], constants)
    return helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


def _spelt(name: str, names: Mapping[str, str]) -> str:
    """Rename; a name that another value now bears moves out of its way."""
    if name in names or not names or not name:
        return names.get(name, name)
    return f"candidate/{name}" if name in names.values() else name


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [_spelt(name, names) for name in node.input]
    copy.output[:] = [_spelt(name, names) for name in node.output]
    return copy


def _renamed_tensor(tensor: onnx.TensorProto, names: Mapping[str, str]) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = _spelt(tensor.name, names)
    return copy
