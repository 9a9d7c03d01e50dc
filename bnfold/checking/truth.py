"""The truth about a reference, and the reference's own error to it."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bnfold.checking.subject import Array, Feed, Outputs, Subject
from bnfold.errors import UnverifiedError

if TYPE_CHECKING:
    from bnfold.checking.torch_onnx import OnnxSubject

# An index or a condition that so many roundings of the weights flip stands on a margin that the budget covers.
_SHAKE = 16
# So many draws tell an rms to a fifth of it.
_SEEDS = range(1, 9)


@dataclass(frozen=True)
class Facts:
    """What is known of one sample: the truth, the reference as it runs, and what rounding its weights again changes.

    A fold rounds every weight once more. After a global pooling, that is more than the roundings of the activations,
    which average out. `spread` runs the reference some more times with every number moved by one rounding, and gives
    how far that takes each element of each output, as rms: the two errors above are one draw each, and where few
    numbers make up an error, one draw can be far too small. It gives nothing where no such run can be made.
    """

    truth: Outputs
    own: Outputs
    nudged: Outputs
    spread: Callable[[], Mapping[str, Array]] = dict

    def spread_of(self, output: str) -> Array | None:
        """Give the spread of one output; None where there is none."""
        return self.spread().get(output)


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
        runs = (self.subject.perturbed(feed, seed) for seed in _SEEDS)
        return Facts(truth, self.subject.own(feed), nudged, functools.cache(lambda: _spread(truth, runs)))


@dataclass(frozen=True)
class RuntimeTruth:
    """The unoptimised runtime in the truth's place, where the executor lacks an operator.

    `moved` is the same model with every weight moved by one rounding: what that changes stands for its own error.
    """

    subject: "OnnxSubject"
    moved: "OnnxSubject"
    description: str
    mode: str = "runtime"

    def facts(self, feed: Feed) -> Facts:
        """Run the reference unoptimised, as it is and nudged."""
        plain, moved = self.subject.own(feed), self.moved.own(feed)
        truth = {name: _widened(value) for name, value in plain.items()}
        runs = (self._again(feed, seed) for seed in _SEEDS)
        return Facts(truth, moved, moved, functools.cache(lambda: _spread(truth, runs)))

    def _again(self, feed: Feed, seed: int) -> Outputs:
        from bnfold.checking.torch_onnx import nudged_model, one_step

        generator = np.random.default_rng(seed)
        return nudged_model(self.subject, seed).own(tuple(one_step(array, generator) for array in feed))


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


def _spread(truth: Outputs, runs: Iterable[Outputs]) -> Mapping[str, Array]:
    """Give the rms over `runs` of each element's distance to the truth; nothing where a run is refused."""
    squares = {name: np.zeros(value.shape) for name, value in truth.items()}
    count = 0
    try:
        for count, outputs in enumerate(runs, 1):  # noqa: B007
            for name, value in truth.items():
                # A run of another shape tells nothing of the elements.
                if name in outputs and outputs[name].shape == value.shape:
                    squares[name] += np.square(outputs[name].astype(np.float64) - value)
    except UnverifiedError:  # a golden file holds no model, and a rounding may take a value out of an operator's domain
        return {}
    return {name: np.sqrt(square / max(count, 1)) for name, square in squares.items()}


def _widened(value: Array) -> Array:
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value
