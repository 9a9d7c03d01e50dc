"""Whether a forward takes the same path at other batch sizes and on larger maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from bnfold.adapters.torch_capture import Arguments, CaptureError, other_batches, other_sizes
from bnfold.adapters.torch_form import difference, form
from bnfold.adapters.torch_reading import Reading
from bnfold.adapters.torch_replay import Replay
from bnfold.adapters.torch_steps import Steps, same_path
from bnfold.adapters.torch_trace import trace
from bnfold.adapters.torch_walk import FAR, Walk, confirmed, far_from

ReadAt: TypeAlias = Callable[[Arguments], Reading]
_BATCH, _SIZE = "batch", "size"  # what another input has another one of


@dataclass(frozen=True, eq=False)
class Followed:
    """A forward that takes one path at all the sizes that it takes.

    sizes: those to check at, the given one first. notes: what was tried, for the report. walk: at the given size, where
    it takes the steps that a trace takes. traces: the path at other sizes, where it was traced or can be no other.
    """

    sizes: Sequence[Arguments]
    notes: tuple[str, ...]
    walk: Walk | None
    traces: Sequence[tuple[Arguments, Steps]]


def same_at_other_sizes(module: nn.Module, given: Arguments, read_at: ReadAt) -> Followed:
    """Follow the forward at other sizes and demand the same path.

    read_at: captures the module. Traces decide where they can, captures where not. Raises CaptureError where forward
    takes another path.
    """
    return followed(module, given, read_at, confirmed(module, given))


def followed(
    module: nn.Module, given: Arguments, read_at: ReadAt, found: Walk | None, reading: Reading | None = None
) -> Followed:
    """Do what `same_at_other_sizes` does. found: the run at the given size. reading: what `read_at` gives for it."""
    search = _Search(module, given, read_at, found, reading)
    tried = [(_BATCH, other) for other in other_batches(given)] + [(_SIZE, other) for other in other_sizes(given)]
    taken = [search.takes(kind, other) for kind, other in tried]
    search.look_far()
    sizes = [given, *(other for (_, other), passed in zip(tried, taken, strict=True) if passed)]
    refused = [other for (_, other), passed in zip(tried, taken, strict=True) if not passed]
    far = f"; its path also in a batch of {FAR}, and assumed in others" if search.went_far else ""
    notes = [f"checked with inputs of shape {'; '.join(map(shapes, sizes))}{far}"]
    if refused:
        notes.append(f"not checked with {'; '.join(map(shapes, refused))}: the module doesn't take them")
    if given.kwargs:
        notes.append(f"holds for these keyword arguments: {', '.join(given.kwargs)}")
    return Followed(sizes, tuple(notes), search.walk, search.traces)


def varying(sizes: Sequence[Arguments]) -> frozenset[int]:
    """Give the axes along which the inputs differ."""
    each = [[item.shape for item in given.tensors] for given in sizes]
    return frozenset(
        axis
        for other in each[1:]
        for one, another in zip(each[0], other, strict=True)
        for axis in range(len(one))
        if one[axis] != another[axis]
    )


def shapes(given: Arguments) -> str:
    """Write the shapes of the tensors as the command line takes them."""
    return ", ".join("x".join(map(str, item.shape)) or "scalar" for item in given.tensors) or "none"


class _Search:
    def __init__(
        self, module: nn.Module, given: Arguments, read_at: ReadAt, found: Walk | None, reading: Reading | None
    ) -> None:
        self.module, self.given, self.read_at, self.reading = module, given, read_at, reading
        self.walk = found
        self.replay = Replay(found.tape) if found is not None and found.blind and found.tape else None
        self.traces: list[tuple[Arguments, Steps]] = []
        self.went_far = False

    def takes(self, kind: str, other: Arguments) -> bool:
        """Whether the module takes a size; raises CaptureError where it takes another path for it."""
        if self.walk is None:
            return self._captured(kind, other)
        replayed = self.replay is not None and self.replay.takes(other)
        steps = self.walk.steps if replayed else trace(self.module, other)
        if steps is None:
            return False
        self.traces.append((other, steps))
        return same_path(self.walk.steps, steps, larger=kind == _SIZE) or self._captured(kind, other)

    def look_far(self) -> None:
        """Follow a batch that would be long to run."""
        far = far_from(self.given)
        if self.walk is not None and far is not None:
            self.went_far = self.takes(_BATCH, far)

    def _captured(self, kind: str, other: Arguments) -> bool:
        """Compare captures. False where the module can't be captured with these inputs."""
        self.reading = self.reading or self.read_at(self.given)
        try:
            again = self.read_at(other)
        except CaptureError:
            return False
        forms = (form(reading.graph, reading.tensors) for reading in (self.reading, again))
        parted = difference(*forms, larger=kind == _SIZE)
        if parted:
            raise CaptureError(
                f"{type(self.module).__name__}: forward takes another path for inputs of shape {shapes(other)}: "
                f"{parted}; fold the submodules that don't look at the {kind}"
            )
        return True
