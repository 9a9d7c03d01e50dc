"""Whether an "unfolded" ONNX reference was in truth folded by its exporter, so that both sides hold the same fold."""

import re
from typing import Any

from bnfold.checking.subject import Subject
from bnfold.report.text import plural

_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_RULE, _SCOPE = "pkg.onnxscript.rewriter.rule_name", "namespace"  # of a node's metadata
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LEGACY_NAME = re.compile(r"onnx::Conv(Transpose)?_\d+")


def folded_by_its_exporter(subject: Subject) -> str:
    """Say so in one sentence where the file shows it; empty otherwise.

    Both of torch's exporters fold Conv -> BatchNorm by default. The dynamo one notes at a node what it was made of; the
    legacy one gives weight and bias of a folded conv a number for a name.
    """
    model = _of_torch(subject)
    if model is None:
        return ""
    count = (_fused_nodes(model) if _has_notes(model) else _missing_statistics(model)) or _numbered_convs(model)
    if not count:
        return ""
    return (
        f"{subject.label}: {count} BatchNorms were folded when it was exported, so it can't show that folding them was"
        " right; give the module itself, or export with dynamo=True and optimize=False (--allow-folded-reference to"
        " compare all the same)"
    )


def lost_since(subject: Subject) -> str:
    """Say in one sentence how many of the exported module's BatchNorms are gone, where no exporter has folded them."""
    model = _of_torch(subject)
    count = _missing_statistics(model) if model is not None and _has_notes(model) and not _fused_nodes(model) else 0
    if not count:
        return ""
    return (
        f"{subject.label}: {plural(count, 'BatchNorm')} of the module that was exported can't be found in it; where"
        " they were not unused, they were folded since, and it can't show that this was right"
    )


def _of_torch(subject: Subject) -> Any:
    model: Any = getattr(subject, "model", None)
    return model if hasattr(model, "graph") and model.producer_name in ("pytorch", "bnfold") else None


def _notes(node: Any) -> dict[str, str]:
    return {item.key: item.value for item in node.metadata_props}


def _has_notes(model: Any) -> bool:
    return any(_SCOPE in _notes(node) for node in model.graph.node)


def _fused_nodes(model: Any) -> int:
    """How many linear nodes were made of a BatchNorm, too."""
    linear = [_notes(node) for node in model.graph.node if node.op_type in _LINEAR]
    return sum("FuseBatchNorm" in notes.get(_RULE, "") or "batch_norm" in notes.get(_SCOPE, "") for notes in linear)


def _missing_statistics(model: Any) -> int:
    """How many of the exported module's running variances the graph no longer holds."""
    signature = next((x.value for x in model.graph.metadata_props if x.key == _SIGNATURE), "")
    had = set(re.findall(r"BUFFER target='([^']*running_var)'", signature))
    return len(had - {tensor.name for tensor in model.graph.initializer})


def _numbered_convs(model: Any) -> int:
    convs = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3]
    return sum(all(_LEGACY_NAME.fullmatch(name) for name in node.input[1:]) for node in convs)
