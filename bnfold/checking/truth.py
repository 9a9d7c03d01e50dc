"""The truth about a reference, and the reference's own error to it."""

from dataclasses import dataclass

import numpy as np

from bnfold.checking.subject import Array, Feed, Outputs, Subject
from bnfold.errors import UnverifiedError

_FLOAT32_TO_FLOAT64 = 2.0**-29


@dataclass(frozen=True)
class Float64Truth:
    """The reference in float64."""

    subject: Subject
    description: str = "the reference in float64"
    mode: str = ""

    def outputs(self, feed: Feed) -> tuple[Outputs, Outputs]:
        """Give the float64 outputs, and those of the reference's own dtype."""
        truth = self.subject.truth(feed)
        if self.subject.dtype != "float64":
            return truth, self.subject.own(feed)
        narrow = self.subject.narrowed(feed)
        return truth, {name: _shrunk(truth[name], narrow[name]) for name in truth}


def _shrunk(truth: Array, narrow: Array) -> Array:
    """The error that the float32 run shows, scaled to float64's unit."""
    if not np.issubdtype(truth.dtype, np.floating):
        return truth
    shrunk: Array = truth + (narrow.astype(np.float64) - truth) * _FLOAT32_TO_FLOAT64
    return shrunk


@dataclass(frozen=True)
class RuntimeTruth:
    """The unoptimised runtime in the truth's place, where the executor lacks an operator.

    `nudged` is the same model with every weight moved by one rounding: what that changes is the reference's own error.
    """

    subject: Subject
    nudged: Subject
    description: str
    mode: str = "runtime"

    def outputs(self, feed: Feed) -> tuple[Outputs, Outputs]:
        """Give the unoptimised outputs twice: of the reference, and of the nudged one."""
        plain = self.subject.own(feed)
        moved = self.nudged.own(feed)
        return {name: _widened(value) for name, value in plain.items()}, moved


def _widened(value: Array) -> Array:
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value


Truth = Float64Truth | RuntimeTruth


def truth_of(subject: Subject) -> Truth:
    """Take the float64 truth where there is one, else the unoptimised runtime. Raises `UnverifiedError` for neither."""
    executor = getattr(type(subject), "executor", None)
    if executor is None:
        return Float64Truth(subject)
    from bnfold.checking.torch_onnx import OnnxSubject, nudged
    from bnfold.checking.torch_ops import MissingOperatorError

    assert isinstance(subject, OnnxSubject)
    try:
        subject.executor  # noqa: B018  (loads it, or names what it lacks)
    except MissingOperatorError as error:
        if subject.dtype != "float32":
            raise UnverifiedError(f"{error}, and the runtime stands in for float32 models only") from error
        return RuntimeTruth(subject, nudged(subject), f"the unoptimised runtime, with a wider budget: {error}")
    return Float64Truth(subject)
