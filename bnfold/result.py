"""What a fold gives back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.graph import Graph
from bnfold.plan import Plan
from bnfold.record import record

if TYPE_CHECKING:
    from bnfold.checking.result import CheckResult


@record(eq=False)
class FoldResult:
    """A folded model with the evidence for it.

    model: what the caller gave, folded: an nn.Module of the same class, an ExportedProgram, a ModelProto or the Path
    of the file that was written; the argument itself is unchanged.
    plan: what became of every affine. graph: the model before, as folding saw it. notes: what the result assumes.
    """

    model: Any
    plan: Plan
    graph: Graph
    notes: tuple[str, ...] = ()


@record(eq=False)
class ExportResult:
    """An ONNX file that was written.

    fold: what was folded before; None where the export keeps every BatchNorm. check: the file against the PyTorch
    model; None where that was not asked for. notes: what the result assumes.
    """

    path: Path
    fold: FoldResult | None
    check: "CheckResult | None"
    notes: tuple[str, ...] = ()
