"""The parts of a check's result, as plain frozen data (`bnfold.checking.result` has the whole)."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What was shown about one output, one run or the whole check."""

    VERIFIED = "verified"
    DIFFERENT = "different"
    UNVERIFIED = "unverified"
    SKIPPED = "skipped"  # asked for, missing, and allowed to be missing


EXIT_STATUS = {Verdict.VERIFIED: 0, Verdict.SKIPPED: 0, Verdict.DIFFERENT: 1, Verdict.UNVERIFIED: 3}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Sum verdicts up: one difference decides, then one doubt. Nothing at all is a doubt, skips alone are a skip."""
    seen = set(verdicts)
    for verdict in (Verdict.DIFFERENT, Verdict.UNVERIFIED, Verdict.VERIFIED, Verdict.SKIPPED):
        if verdict in seen:
            return verdict
    return Verdict.UNVERIFIED


@dataclass(frozen=True)
class Bin:
    """One bin of a histogram: `low <= value < high` for `count` elements; the last bin is open (`high` is inf)."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Measures:
    """How far one side's output is from the float64 truth, over every element of every input.

    Elements that are NaN or infinite on this side or in the truth are counted and left out of the other figures.
    """

    max_abs: float
    max_rel: float  # max_abs / the truth's largest magnitude
    rms: float
    rel_l2: float  # |error| / |truth|, in the 2-norm
    cosine: float
    snr_db: float
    ulp: tuple[Bin, ...]  # distance to the truth in units in the last place of the output's dtype
    error_log10: tuple[
        Bin, ...
    ]  # log10(|error| / the truth's rms); exact elements stand in the first bin (low is -inf)
    argmax: float | None  # share of rows with the truth's arg-max, where the truth's margin exceeds the budget
    top5: float | None  # share of the truth's five largest that are among this side's five largest
    nan: int
    inf: int


@dataclass(frozen=True)
class ChannelRecord:
    """The error of one channel (axis 1) of an output, as rms over every input."""

    channel: int
    reference: float
    candidate: float
    allowed: float


@dataclass(frozen=True)
class Exceeded:
    """The test that an output failed by the largest factor, or came nearest to failing.

    `test` is rms, channel, sample or max; `measured <= allowed` is what was wanted. `index` is the worst element of
    `input` (batch index first), `channel` is set where the test is by channel.
    """

    test: str
    measured: float
    allowed: float
    channel: int | None
    input: str
    index: tuple[int, ...]
    reference_value: float
    candidate_value: float
    truth_value: float


@dataclass(frozen=True)
class OutputRecord:
    """One output of one run. Figures are absent where the two could not be laid beside each other (`why` says it)."""

    name: str  # in the reference
    candidate_name: str  # in the candidate; empty where it has no counterpart
    verdict: Verdict
    why: str  # one sentence; empty where verified
    shape: tuple[int, ...]  # for the first input
    dtype: str
    elements: int  # compared, over all inputs
    scale: float  # rms of the truth
    error_ratio: float | None  # candidate's rms error / reference's rms error
    allowed_ratio: float | None
    reference: Measures | None
    candidate: Measures | None
    exceeded: Exceeded | None
    channels: tuple[ChannelRecord, ...] = ()  # the worst ones, worst first


@dataclass(frozen=True)
class NodeRecord:
    """Where one node of the candidate ran."""

    name: str
    operator: str
    provider: str


@dataclass(frozen=True)
class Run:
    """One (candidate, provider, options) triple."""

    candidate: str
    provider: str  # as asked for: cpu, cuda, ...; "torch" options tell a module's device
    options: tuple[tuple[str, str], ...]
    mode: str  # row of the tolerance table: float32, tf32, float16, ...
    verdict: Verdict
    why: tuple[str, ...]  # why it is not verified, one sentence each
    outputs: tuple[OutputRecord, ...] = ()
    nodes: tuple[NodeRecord, ...] = ()
    nodes_proven: bool = False  # whether the assignment of every node is known
    repeats_equal: bool | None = None  # the same input twice, bit for bit
    seconds: float = 0.0
    replay: str = ""  # file with the smallest input that shows the difference, for `bnfold check --replay`

    @property
    def label(self) -> str:
        """Name the triple in one line, as the user would write it."""
        options = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.candidate} on {self.provider}" + (f":{options}" if options else "")


@dataclass(frozen=True)
class Skip:
    """Something asked for that was not done, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class InputRecord:
    """One set of inputs that was run: its name (as in `Exceeded.input`), how it was made, the shape of each input."""

    name: str
    kind: str  # random, zeros, constant, impulse, sample, search, replay
    shapes: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class LayerCoverage:
    """How much of one activation's (channel, branch) pairs the inputs reached."""

    layer: str
    operator: str
    channels: int
    channels_reached: int  # channels whose value varied
    branches: int
    branches_reached: int


@dataclass(frozen=True)
class Coverage:
    """What the inputs reached in the reference."""

    layers: tuple[LayerCoverage, ...]

    @property
    def channels(self) -> float:
        """Share of channels whose value varied; 1 for a network without activations."""
        return _share(sum(x.channels_reached for x in self.layers), sum(x.channels for x in self.layers))

    @property
    def branches(self) -> float:
        """Share of (channel, side of the kink) pairs that some element took."""
        return _share(sum(x.branches_reached for x in self.layers), sum(x.branches for x in self.layers))


@dataclass(frozen=True)
class LayerError:
    """The error at one pair of values that should be the same: the chart of error by layer."""

    reference: str
    candidate: str
    reference_error: float  # the reference's own rms error to the truth, relative to the truth's rms
    candidate_error: float
    allowed: float


@dataclass(frozen=True)
class Divergence:
    """The first value in the graph at which the two part beyond the budget."""

    candidate: str  # which candidate
    layer: str  # the reference's node or module
    operator: str
    reference_value: str
    candidate_value: str
    channel: int | None
    index: tuple[int, ...]
    difference: float  # largest
    allowed: float
    input: str
    mapped_by: str  # "plan", or "values" where the correspondence was derived
    replay: str = ""  # file that `bnfold check --replay` takes
    layers: tuple[LayerError, ...] = ()


@dataclass(frozen=True)
class AuditRow:
    """One folded constant of one channel against its independent float64 recomputation.

    `ulp` is the difference in units in the last place of the recomputation's largest term; `what` is weight, bias, ...
    `candidate` tells which of several.
    """

    layer: str
    channel: int
    ulp: float
    allowed: float
    what: str = "weight"
    candidate: str = ""

    @property
    def passed(self) -> bool:
        """Whether the constant is right; NaN is not."""
        return self.ulp <= self.allowed


@dataclass(frozen=True)
class AuditGap:
    """A layer that the audit has not looked at, and why. side: reference or candidate; layer: empty for all of it."""

    candidate: str
    side: str
    layer: str
    why: str


@dataclass(frozen=True)
class Environment:
    """What the check ran on: versions by package, providers that the runtime lists, machine."""

    versions: tuple[tuple[str, str], ...]
    providers: tuple[str, ...]
    machine: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BudgetRow:
    """One row of the tolerance table as it was used."""

    mode: str
    unit: float
    rms: float
    channel: float
    peak: float
    floor: float
    ceiling: float
    why: str


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
