"""What a fold does, as plain data: an outcome for every affine, the frames, and the edits that carry them out."""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TypeAlias

from bnfold.affine import Chains, Floats
from bnfold.ops import Conv
from bnfold.record import record
from bnfold.why import Why


@record
class Reason:
    """One row of a contradiction: the node (or value) that holds a frame, and why."""

    node: str
    why: Why

    def __str__(self) -> str:
        """`relu10 bends at zero, so a shift can't pass`."""
        return f"{self.node} {self.why.sentence}"


@record
class Folded:
    """The affine is gone. into: the nodes whose constants took it up."""

    affine: str
    into: tuple[str, ...]


@record
class Kept:
    """The affine stays. why: the contradiction, the row nearest to the affine first; never empty."""

    affine: str
    why: tuple[Reason, ...]


Outcome: TypeAlias = Folded | Kept


@record(eq=False)
class Balance:
    """What a weight in half precision is rounded against (`bnfold.rounding`), in float64.

    mean, variance: (in_channels,), of the folded node's input x. gain: (in_channels,), what is off in x already, in
    proportion to x. residue: (out_channels,), what the rounding of its bias, and all else that is off in x, add to W' x
    on average.
    """

    mean: Floats
    variance: Floats
    gain: Floats
    residue: Floats


@record(eq=False)
class ScaleWeight:
    """Multiply the weight of a linear node by out_factor (out_channels,) and in_factor (in_channels,), both float64.

    W'[o, i, ...] = W[o, i, ...] * out_factor[o] * in_factor[i], wherever the operator keeps o and i
    (`bnfold.rules.linear.scale_weight` does it). A factor of exactly 0 stands for a dead channel (gamma == 0).
    balance: for half precision, where the input's mean is known; without it every number is rounded to the nearest.
    """

    node: str
    out_factor: Floats
    in_factor: Floats
    balance: Balance | None = None


@record(eq=False)
class SetBias:
    """Give a linear node this bias (float64), in place of what it had or of none.

    It is what is added to W x, so a Gemm stores it divided by its beta. Its shape is (out_channels,), or the old
    bias's broadcast with that along the channels' axis.
    """

    node: str
    bias: Floats


@record(eq=False)
class SetConstants:
    """Give operands of a node new numbers, by operand index: the constants of a kept affine, slopes, clip bounds."""

    node: str
    constants: Mapping[int, Floats]


@record
class SetBounds:
    """Give a Clip, or a Pad's value (lo), other numbers."""

    node: str
    lo: float | None
    hi: float | None = None


@record(eq=False)
class ReplaceByClip:
    """Put min(max(x, lo), hi) along `axis` in an activation's place; lo, hi (C,) float64, infinite: no bound."""

    node: str
    axis: int
    lo: Floats
    hi: Floats


@record
class Remove:
    """Take the node out: whoever read its output reads its first input."""

    node: str


@record
class Merge:
    """Put one Conv on x in the place of a Sum of parallel linear branches, and of the affines right behind it.

    node: the Sum. inner: Sums that are its operands and go with it. branches: for each operand of them all, the nodes
    on the way from x, in the order of the data; none for x itself. after: the affine behind the Sum that goes too.
    The Conv gives what that, or the Sum, gave; `bnfold.merging.fused` computes its weight (out, in / groups, *kernel)
    and bias (out,) in float64.
    A module's forward has the branches as code, so that only graphs (.onnx, .pt2) can carry it out. Edits of `node`
    that come after it in a plan are the Conv's.
    """

    node: str
    x: str
    op: Conv
    branches: tuple[tuple[str, ...], ...]
    after: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that the Conv replaces."""
        return (*(name for branch in self.branches for name in branch), *self.inner, self.node, *self.after)


Edit: TypeAlias = ScaleWeight | SetBias | SetConstants | SetBounds | ReplaceByClip | Remove | Merge


@record(eq=False)
class Plan:
    """A fold. Outcomes stand in the graph's order; frames say T = scale * T' + shift for every value that changed.

    A tensor that changed along several axes has a frame for each change, the outermost first: T = f1(f2(... T')).
    Neighbours lie along different axes; which of them is the outer one counts, since each moves the other's shift.
    A scale of 0 stands where T' says nothing of T: a channel that gamma == 0 lets nobody see.
    """

    outcomes: tuple[Outcome, ...]
    edits: tuple[Edit, ...]
    frames: Chains = field(default_factory=dict)

    @property
    def merges(self) -> tuple[Merge, ...]:
        """The merges whose Conv stays; what stood for another one that they take in is among their inner nodes."""
        standing: dict[str, Merge] = {}
        for edit in self.edits:
            if isinstance(edit, Merge):
                taken = [standing.pop(name).nodes for name in edit.nodes if name in standing]
                more = dict.fromkeys(name for names in taken for name in names if name not in edit.nodes)
                standing[edit.node] = replace(edit, inner=(*edit.inner, *more))
        return tuple(standing.values())

    @property
    def merged(self) -> frozenset[str]:
        """The nodes that merges replace."""
        return frozenset(name for merge in self.merges for name in merge.nodes)

    @property
    def own(self) -> tuple[Edit, ...]:
        """The edits of nodes that no merge replaces."""
        merged = self.merged
        return tuple(edit for edit in self.edits if edit.node not in merged)

    @property
    def folded(self) -> tuple[Folded, ...]:
        """The affines that are gone."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Folded))

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The affines that stay."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Kept))
