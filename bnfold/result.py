"""What a fold gives back."""

from dataclasses import dataclass
from typing import Any

from bnfold.graph import Graph
from bnfold.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
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
