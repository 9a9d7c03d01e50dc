"""A fold for machines. docs/json.md has the fields; a field is never renamed or removed without a new version."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bnfold import ops
from bnfold.graph import Graph
from bnfold.plan import Plan
from bnfold.plan_json import digest, fingerprint, outcome_to_json
from bnfold.report.fold_totals import totals

FORMAT, VERSION = "bnfold.fold", 1


def fold_json(graph: Graph, plan: Plan, *, model: str, notes: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """Give the report as JSON values.

    model: the file that was read. more: what the command knows besides (output, level, dry_run, verified).
    """
    before, after = totals(graph, plan)
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": model,
        **more,
        "outcomes": [_described(outcome_to_json(outcome), graph) for outcome in plan.outcomes],
        "merged": [{"into": merge.node, "nodes": list(merge.nodes)} for merge in plan.merges],
        "totals": {"before": asdict(before), "after": asdict(after)},
        "notes": list(notes),
        "plan_sha256": digest(plan),
        "model_fingerprint": fingerprint(graph),
    }


def _described(outcome: dict[str, Any], graph: Graph) -> Mapping[str, Any]:
    """Add what the affine is: its kind, its sources in the file where they have other names, its channels' number."""
    node = graph.by_name[outcome["affine"]]
    is_norm = isinstance(node.op, ops.BatchNorm)
    axis = node.op.axis if isinstance(node.op, ops.Affine) else 1
    shape = graph.shape(node.output)
    channels = shape[axis] if shape is not None and axis < len(shape) else None
    kind = "BatchNorm" if is_norm else "affine"
    return {**outcome, "kind": kind, "sources": list(node.sources or (node.name,)), "axis": axis, "channels": channels}
