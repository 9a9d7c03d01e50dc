"""The truth about a reference, and the reference's own error to it."""

from dataclasses import dataclass

import numpy as np

from bnfold.checking.subject import Array, Feed, Outputs, Subject
from bnfold.errors import UnverifiedError

# An index or a condition that so many roundings of the weights flip stands on a margin that the budget covers.
_SHAKE = 16


@dataclass(frozen=True)
class Facts:
    """What is known of one sample: the truth, the reference as it runs, and what rounding its weights again changes.

    A fold rounds every weight once more. After a global pooling, that is more than the roundings of the activations,
    which average out.
    """

    truth: Outputs
    own: Outputs
    nudged: Outputs


@dataclass(frozen=True)
class Float64Truth:
    """The reference in float64. `mode` is empty: the budget is that of the model's dtype."""

    subject: Subject
    description: str = "the reference in float64"
    mode: str = ""

    def facts(self, feed: Feed) -> Facts:
        """Run the reference in float64, in its own dtype, and in float64 with its weights nudged."""
        truth, nudged = self.subject.truth(feed), dict(self.subject.nudged(feed))
        whole = [name for name, value in truth.items() if not np.issubdtype(value.dtype, np.floating)]
        if whole:
            shaken = self.subject.nudged(feed, _SHAKE)
            nudged |= {name: shaken[name] for name in whole}
        return Facts(truth, self.subject.own(feed), nudged)


@dataclass(frozen=True)
class RuntimeTruth:
    """The unoptimised runtime in the truth's place, where the executor lacks an operator.

    `moved` is the same model with every weight moved by one rounding: what that changes stands for its own error.
    """

    subject: Subject
    moved: Subject
    description: str
    mode: str = "runtime"

    def facts(self, feed: Feed) -> Facts:
        """Run the reference unoptimised, as it is and nudged."""
        plain, moved = self.subject.own(feed), self.moved.own(feed)
        return Facts({name: _widened(value) for name, value in plain.items()}, moved, moved)


Truth = Float64Truth | RuntimeTruth


def truth_of(subject: Subject) -> Truth:
    """Take the float64 truth where there is one, else the unoptimised runtime. Raises `UnverifiedError` for neither."""
    if not hasattr(type(subject), "executor"):
        return Float64Truth(subject)
    from bnfold.checking.torch_onnx import OnnxSubject, nudged_model
    from bnfold.checking.torch_ops import MissingOperatorError

    assert isinstance(subject, OnnxSubject)
    try:
        subject.executor  # noqa: B018  (loads it, or names what it lacks)
    except MissingOperatorError as error:
        if subject.dtype != "float32":
            raise UnverifiedError(f"{error}, and the runtime stands in for float32 models only") from error
        description = f"the unoptimised runtime, with a wider budget: {error}"
        return RuntimeTruth(subject, nudged_model(subject), description)
    return Float64Truth(subject)


def _widened(value: Array) -> Array:
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value
