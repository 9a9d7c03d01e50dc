"""An audit of the weights where no plan is at hand: the form of a candidate's layer against that of the reference.

Both forms are W x + b between two values that stand for one another (`bnfold.checking.linear_forms`). With the frames
x = a_x x' + d_x and y = a_y y' + d_y,

    W'[o, i] = W[o, i] a_x[i] / a_y[o]        b'[o] = (b[o] + sum_i W[o, i] d_x[i] - d_y[o]) / a_y[o]

The frame of y is the identity, or, where a fold is taken to hold y otherwise, the one that most weights of a row agree
on: what is out of proportion to them was made by no fold.
"""

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.checking.linear_forms import Dense
from bnfold.checking.measures import Array, ulp
from bnfold.checking.result import AuditGap, AuditRow
from bnfold.report.text import plural

ALLOWED = 8.0  # ULP of the largest term: a fold that was made in float32 rounds the scale and every product
IN_FRAME = 64.0  # ULP where a frame was measured: what the roundings along a trunk of layers add up to, in a bias
_SNAP = 4.0, 64.0  # ULP: a measured scale, and a measured shift, that are this near to none are none
_PLAUSIBLE = 0.9  # share of right numbers
UNSEEN = "its weights are others, and no output shows them"
_MADE_UP = "its weights are others, and what reads it makes up for that"
_TRACE = 1e-3  # of a wrong weight's term: a channel that is off by less than this shows nothing of it
_NAMED = 3  # layers in a warning


@dataclass
class Audit:
    """What one walk found. label: the candidate's."""

    label: str = ""
    rows: list[AuditRow] = field(default_factory=list)
    gaps: list[AuditGap] = field(default_factory=list)

    @property
    def cost(self) -> tuple[int, int]:
        """The best explanation of a candidate leaves the fewest layers without a counterpart, then wrong constants."""
        return len(self.gaps), sum(not row.passed for row in self.rows)

    @property
    def unseen(self) -> bool:
        """Whether weights are others of which no output shows anything."""
        return any(gap.why == UNSEEN for gap in self.gaps)

    def plus(self, other: "Audit") -> "Audit":
        """What two walks found."""
        return Audit(self.label or other.label, [*self.rows, *other.rows], [*self.gaps, *other.gaps])

    def doubted(self, why: str = _MADE_UP, layers: Collection[str] | None = None) -> "Audit":
        """Take layers that seem wrong, or those of them that are named, for ones that could not be compared."""
        wrong = dict.fromkeys(
            row.layer for row in self.rows if not row.passed and (layers is None or row.layer in layers)
        )
        gaps = [AuditGap(self.label, "reference", layer, why) for layer in wrong]
        return Audit(self.label, [row for row in self.rows if row.layer not in wrong], [*self.gaps, *gaps])

    def warnings(self) -> Iterator[str]:
        """Say in one line for each side of each candidate which layers could not be compared."""
        sides: dict[tuple[str, str], list[AuditGap]] = {}
        for gap in self.gaps:
            sides.setdefault((gap.candidate, gap.side), []).append(gap)
        for (candidate, side), lost in sides.items():
            named = "; ".join(f"{gap.layer or candidate}: {gap.why}" for gap in lost[:_NAMED])
            more = f"; and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
            layers = plural(len(lost), "layer")
            yield f"the audit of {candidate} could not compare {layers} of the {side} ({named}{more})"


@dataclass(frozen=True, eq=False)
class Fit:
    """One layer against one value of the reference. errors, bias_errors: in ULP, shaped as weight and bias.

    gaps, bias_gaps: how far the numbers are off, in the candidate's units. scale, shift: (out,), the frame
    y = scale * y' + shift of the candidate's value. loose: how many times more than by a rounding that may be off.
    """

    errors: Array
    bias_errors: Array
    gaps: Array
    bias_gaps: Array
    scale: Array
    shift: Array
    distance: float  # the median relative error of a weight
    allowed: float = ALLOWED
    bias_allowed: float = ALLOWED
    loose: float = 1.0
    unknown: int = 0  # input channels of which no scale is known, and nothing was compared

    @property
    def share(self) -> float:
        """How many of the weights are what they have to be."""
        return float(np.mean(self.errors <= ALLOWED)) if self.errors.size else 1.0

    @property
    def framed(self) -> bool:
        """Whether the candidate holds the value in another frame."""
        return bool(np.any(self.scale != 1) or np.any(self.shift != 0))

    @property
    def wrong(self) -> list[int]:
        """The output channels of which a number is wrong."""
        return [int(channel) for channel in np.flatnonzero(~(self._by_channel().max(0) <= 1))]

    @property
    def right(self) -> bool:
        """Whether none is."""
        return not self.wrong

    @property
    def rounded(self) -> bool:
        """Whether arithmetic on the weights in their own precision explains all of them: by ULP of a row's largest."""
        if not np.all(np.isfinite(self.errors)):
            return False
        rows = self.errors.reshape(len(self.errors), -1), self.gaps.reshape(len(self.gaps), -1)
        with np.errstate(all="ignore"):
            unit = np.where(rows[0] > 0, rows[1] / rows[0], 0.0).max(1, initial=0.0)
        return bool(np.all(rows[1] <= IN_FRAME * unit[:, None]))

    @property
    def worst(self) -> float:
        """The largest error, of what is allowed."""
        return float(self._by_channel().max(initial=0.0))

    def shown(self, off: Array, inputs: Array) -> bool:
        """Whether an input of these sizes shows any wrong channel; what it doesn't show may as well be right.

        off: (out,), by how much each channel is off at most. inputs: (in,), the largest size of each. Weights of an
        input that is zero, or of inputs that are equal, can change without a trace.
        """
        out, inner = self.gaps.shape[:2]
        groups = len(inputs) // inner if inner else 1
        if inner * groups != len(inputs) or groups == 0 or out % groups:
            return True
        sizes = np.repeat(inputs.reshape(groups, inner), out // groups, axis=0)
        wrong = np.where(self.errors <= self.allowed, 0.0, self.gaps).reshape(out, inner, -1).max(2, initial=0.0)
        with np.errstate(all="ignore"):
            terms = np.where(sizes == 0, 0.0, wrong * sizes).max(1, initial=0.0)
        expected = np.maximum(terms, np.where(self.bias_errors <= self.bias_allowed, 0.0, self.bias_gaps))
        hidden = np.isfinite(off) & (off <= _TRACE * expected) | (expected == 0)
        return not np.all(hidden[self.wrong])

    def _by_channel(self) -> Array:
        """(2, out): errors of the weights and of the bias, of what is allowed."""
        weights = self.errors.reshape(len(self.errors), -1).max(1, initial=0.0)
        return np.stack([weights / self.allowed, self.bias_errors / self.bias_allowed])

    def rank(self, *, ends: bool) -> tuple[bool, float, float, int]:
        """What the best fit has most of: plausibility, right numbers, nearness, channels without a frame.

        ends: whether a chain of affines ends at the reference's value, as it does at the candidate's; where it does
        not, nearly all of the numbers have to be right. It counts for more than the biases, all of which a fault may
        change.
        """
        right = float(np.mean(self.bias_errors <= ALLOWED)) if self.bias_errors.size else 1.0
        plausible = ends or min(self.share, right) >= _PLAUSIBLE
        same = int(np.sum((self.scale == 1) & (self.shift == 0)))
        return plausible, self.share + 0.5 * right + 0.6 * ends, -self.distance, same

    def rows(self, layer: str, part: str) -> list[AuditRow]:
        """Give every wrong channel, and the worst right one of weights and of biases."""
        found: list[AuditRow] = []
        parts = ((part, self.errors, self.allowed), ("bias", self.bias_errors, self.bias_allowed))
        for what, errors, allowed in parts:
            if not errors.size:
                continue
            worst = errors.reshape(len(errors), -1).max(1)
            right = np.where(worst <= allowed, worst, -1.0)
            channels = [*np.flatnonzero(~(worst <= allowed))]
            if right.max() >= 0:
                channels.append(right.argmax())
            found += [AuditRow(layer, int(c), float(worst[c]), allowed, what) for c in channels]
        return found


def fit(theirs: Dense, ours: Dense, dtype: str, *, free: bool, loose: float = 1.0) -> Fit | None:
    """Lay a candidate's form beside the reference's, whose input frame is already in; None for another shape.

    dtype: in which the candidate stores the weight. free: let each output channel have a frame of its own. loose:
    how many times more than by a rounding the input's frame may be off.
    """
    if theirs.key != ours.key:
        return None
    out = len(ours.bias)
    scale, shift, now = np.ones(out), np.zeros(out), loose
    if free:
        now = max(loose, _cancelled(theirs), _cancelled(ours))
        scale, shift = _frame(theirs, ours, dtype)
        ours = _in_frame(ours, scale, shift)
    gaps = [_gaps(theirs.weight, ours.weight), _gaps(theirs.bias, ours.bias)]
    errors = _steps(gaps[0], np.maximum(ours.size, np.abs(ours.weight)), dtype)
    size = np.maximum(np.maximum(ours.bias_size, np.abs(ours.bias)), theirs.bias_size)
    bias_errors = _steps(gaps[1], size, dtype)
    with np.errstate(all="ignore"):
        relative = gaps[0] / np.abs(ours.weight)
    distance = float(np.median(np.where(np.isnan(relative), 0.0, relative))) if relative.size else 0.0
    columns = (
        np.isnan(ours.weight).reshape(out, ours.weight.shape[1], -1).any((0, 2)) if ours.weight.size else np.zeros(0)
    )
    allowed = min(ALLOWED * loose, IN_FRAME)
    return Fit(
        errors, bias_errors, gaps[0], gaps[1], scale, shift, distance, allowed, IN_FRAME if free else allowed, now,
        int(np.count_nonzero(columns)),
    )  # fmt: skip


def _cancelled(form: Dense) -> float:
    """How many times larger than a row's typical weight its terms are, at most: a sum of branches may nearly cancel."""
    sizes, weights = (np.abs(x).reshape(len(x), -1) for x in (form.size, form.weight))
    middles = np.median(sizes, axis=1), np.median(weights, axis=1)
    ratios = np.divide(*middles, out=np.ones(len(sizes)), where=middles[1] > 0)
    return float(ratios.max(initial=1.0))


def _gaps(got: Array, wanted: Array) -> Array:
    with np.errstate(all="ignore"):
        same = (got == wanted) | np.isnan(wanted)  # of an input whose frame is not known
        return np.where(same, 0.0, np.abs(got - wanted))


def _steps(gaps: Array, size: Array, dtype: str) -> Array:
    with np.errstate(all="ignore"):
        steps = np.where(gaps == 0, 0.0, gaps / ulp(size, dtype))
    return np.asarray(np.where(np.isnan(steps), np.inf, steps))


def _frame(theirs: Dense, ours: Dense, dtype: str) -> tuple[Array, Array]:
    """Read off each row's scale as a median, and the shift that the biases then leave."""
    flat = [x.weight.reshape(len(x.weight), -1) for x in (theirs, ours)]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a finite ratio
        ratio = np.where((flat[0] != 0) & (flat[1] != 0), flat[1] / flat[0], np.nan)
        middle = np.median if np.isfinite(ratio).all() else np.nanmedian  # which takes rows one by one
        scale = middle(np.where(np.isfinite(ratio), ratio, np.nan), axis=1)
    unit = float(ulp(np.ones(1), dtype)[0])
    scale = np.where(np.isfinite(scale) & (np.abs(scale - 1) > _SNAP[0] * unit), scale, 1.0)
    shift = ours.bias - scale * theirs.bias
    near = _SNAP[1] * ulp(np.maximum(np.maximum(ours.bias_size, np.abs(ours.bias)), np.abs(scale * theirs.bias)), dtype)
    return scale, np.where(np.abs(shift) > near, shift, 0.0)


def _in_frame(ours: Dense, scale: Array, shift: Array) -> Dense:
    rows = scale.reshape(-1, *(1,) * (ours.weight.ndim - 1))
    return replace(
        ours,
        weight=ours.weight / rows,
        size=ours.size / np.abs(rows),
        bias=(ours.bias - shift) / scale,
        bias_size=np.maximum(ours.bias_size, np.abs(shift)) / np.abs(scale),
    )
