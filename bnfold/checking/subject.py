"""A model to check: what both sides look like to the checker, whatever they were loaded from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bnfold.checking.providers import Target
from bnfold.checking.result import NodeRecord
from bnfold.errors import BnfoldError

if TYPE_CHECKING:
    from bnfold.checking.torch_coverage import Recorder

Array = np.ndarray[Any, Any]
Feed = tuple[Array, ...]  # one array an input, in the model's own order
Outputs = Mapping[str, Array]
Examples = Sequence[Array] | Mapping[str, Array]


@dataclass(frozen=True)
class InputSpec:
    """One input. A dimension that may vary is a string: its name, or a made-up one where it has none.

    `limit`: integers are drawn below it (the rows of the embedding that they index).
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    limit: int = 2


class Runner(Protocol):
    """A model opened on one provider."""

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        """Where each node runs."""

    @property
    def proven(self) -> bool:
        """Whether `nodes` is known to be all of them."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a sentence about where the nodes run."""

    def run(self, feed: Feed) -> Outputs:
        """Run once."""


class Subject(Protocol):
    """One side of a check. `named` tells whether its outputs' names mean anything; a module's tuple has none."""

    label: str
    source_name: str  # the path it was loaded from; empty for an object
    inputs: tuple[InputSpec, ...]
    dtype: str
    named: bool
    recorder: "Recorder"
    assumptions: tuple[str, ...]

    def truth(self, feed: Feed) -> Outputs:
        """Run in float64 throughout. `MissingOperatorError` (an `UnverifiedError`) where that can't be done."""

    def own(self, feed: Feed) -> Outputs:
        """Run as stored, on the CPU, with nothing optimised."""

    def nudged(self, feed: Feed, times: int = 1) -> Outputs:
        """Run in float64 with every weight moved by `times` roundings of its dtype."""

    def perturbed(self, feed: Feed, seed: int) -> Outputs:
        """Run in float64 with every weight, input and result moved by one rounding of the model's dtype."""

    def input_scale(self, feed: Feed) -> float:
        """Tell what to multiply normal inputs by, so that the first BatchNorm sees the variance it was trained on."""

    def open(self, target: Target, *, allow_fallback: bool) -> Runner:
        """Open on a provider."""


def load_subject(
    model: Any,
    *,
    arch: str | None = None,
    arch_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
    examples: Examples = (),
) -> Subject:
    """Make a subject of an nn.Module, an onnx.ModelProto, or a path to one of either.

    `examples`: arrays that it takes, by name or in order, where a module or a file doesn't tell.
    Raises `BnfoldError` for anything else.
    """
    if isinstance(model, (str, Path)):
        return _load_file(Path(model), arch, arch_kwargs, trust, examples)
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__}
    if "torch.nn.modules.module.Module" in kinds:
        from bnfold.checking.torch_module import ModuleSubject

        return ModuleSubject(model, type(model).__name__, examples)
    if any(kind.endswith(".ModelProto") for kind in kinds):
        from bnfold.checking.torch_onnx import OnnxSubject

        return OnnxSubject(model, model.graph.name or "model", examples=examples)
    raise BnfoldError(f"can't check a {type(model).__name__}; wanted an nn.Module, an onnx.ModelProto or a path")


def _load_file(
    path: Path, arch: str | None, arch_kwargs: Mapping[str, Any] | None, trust: bool, examples: Examples
) -> Subject:
    from bnfold.formats import Kind, kind_of

    if kind_of(path) is Kind.ONNX:
        from bnfold.checking.torch_onnx import OnnxSubject

        return OnnxSubject.from_file(path, examples)
    from bnfold.adapters.torch_load import load_module
    from bnfold.checking.torch_module import ModuleSubject, fixed_inputs, to_array

    loaded = load_module(path, arch=arch, arch_kwargs=arch_kwargs, trust=trust)
    own = examples or [to_array(tensor) for tensor in loaded.example_inputs]
    fixed = () if loaded.program is None else fixed_inputs(loaded.program)
    return ModuleSubject(loaded.module, path.name, own, str(path), fixed)
