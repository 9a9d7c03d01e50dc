"""Whether an "unfolded" ONNX reference was in truth folded by its exporter, so that both sides hold the same fold."""

import re
from typing import Any

from bnfold.checking.subject import Subject

_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_LEGACY_NAME = re.compile(r"onnx::Conv(Transpose)?_\d+")


def folded_by_its_exporter(subject: Subject) -> str:
    """Say so in one sentence where the file shows it; empty otherwise.

    Both of torch's exporters fold Conv -> BatchNorm by default. The dynamo one lists the statistics that the module
    had; the legacy one gives weight and bias of a folded conv a number for a name.
    """
    model = getattr(subject, "model", None)
    if model is None or not hasattr(model, "graph") or model.producer_name not in ("pytorch", "bnfold"):
        return ""
    count = _missing_statistics(model) or _numbered_convs(model)
    if not count:
        return ""
    return (
        f"{subject.label}: {count} BatchNorms were folded when it was exported, so it can't show that folding them was"
        " right; give the module itself, or export with dynamo=True and optimize=False (--allow-folded-reference to"
        " compare all the same)"
    )


def _missing_statistics(model: Any) -> int:
    """How many of the exported module's running variances the graph no longer holds."""
    signature = next((x.value for x in model.graph.metadata_props if x.key == _SIGNATURE), "")
    had = set(re.findall(r"BUFFER target='([^']*running_var)'", signature))
    return len(had - {tensor.name for tensor in model.graph.initializer})


def _numbered_convs(model: Any) -> int:
    convs = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3]
    return sum(all(_LEGACY_NAME.fullmatch(name) for name in node.input[1:]) for node in convs)
