"""A plan made anew for a forward that took another path without its BatchNorms: what it depends on stays."""

from collections.abc import Callable, Collection
from dataclasses import replace

from torch import nn

from bnfold.adapters.torch_job import Job, prepared, without_removal
from bnfold.adapters.torch_limits import Writable, limited
from bnfold.adapters.torch_sizes import varying
from bnfold.adapters.torch_watched import looked_at, unread
from bnfold.graph import Graph
from bnfold.plan import Plan
from bnfold.raising import raised
from bnfold.why import Why


def planned_anew(
    job: Job, plan: Plan, target: nn.Module, find: Callable[[Graph], Plan]
) -> tuple[Job, Plan, tuple[str, ...]] | None:
    """Give the job with more that must stay as it is, its plan, and notes; None where nothing of that kind is found.

    target: the module, with nothing written to it. find: plans a fold of a graph.
    """
    notes: tuple[str, ...] = ()
    if watched := looked_at(target, job.given, job.replaced(plan)):
        writable, graph = without_removal(job.writable, watched)
        notes = tuple(f"{path}: the forward looks at it beyond calling it, so it stays" for path in watched)
    elif layers := unread(target, job.given, job.biased(plan)):
        writable, graph = _without_biases(job, layers)
    elif relied := job.in_place(plan):
        # A capture shows x and what relu_(x) gives back as one tensor; only a run tells which of them is read later.
        relied = (*job.writable.relied, *relied)
        limits = limited(job.reading, job.module, varying(job.followed.sizes), relied)
        writable, graph = prepared(job.reading, limits)
    else:
        return None
    return replace(job, writable=writable, graph=graph), find(graph), notes


def _without_biases(job: Job, layers: Collection[str]) -> tuple[Writable, Graph]:
    """Give the layers at these paths no bias: their forward doesn't read it."""
    nodes = tuple(
        replace(node, limits={"bias": Why.NO_BIAS, **node.limits}) if job.owners.get(node.name) in layers else node
        for node in job.writable.graph.nodes
    )
    writable = replace(job.writable, graph=replace(job.writable.graph, nodes=nodes))
    return writable, raised(writable.graph)
