"""Whether a forward takes the same path at other batch sizes and on larger maps."""

from collections.abc import Callable, Iterator

from torch import nn

from bnfold.adapters.torch_capture import Arguments, CaptureError, other_batches, other_sizes
from bnfold.adapters.torch_form import difference, form
from bnfold.adapters.torch_reading import Reading
from bnfold.adapters.torch_trace import Step, same_path, trace
from bnfold.adapters.torch_truth import recorded_outputs

FAR = 65  # a batch beyond what forwards look for ("at least 8", "more than 64"); it is followed and never run
ReadAt = Callable[[Arguments], Reading]


def same_at_other_sizes(
    module: nn.Module, given: Arguments, read_at: ReadAt, reading: Reading | None = None
) -> tuple[list[Arguments], tuple[str, ...]]:
    """Follow the forward at other sizes and demand the same path. Gives the sizes that the module takes, and notes.

    read_at: captures the module; reading: what it gave at the given sizes. Traces decide where they can, captures
    where not. Raises CaptureError where forward takes another path.
    """
    own = _trace_as_run(module, given)
    sizes: list[Arguments] = [given]
    refused: list[str] = []
    for kind, other in _others(given):
        steps = trace(module, other) if own is not None else None
        if own is not None and steps is None:
            taken = False
        elif own is not None and steps is not None and same_path(own, steps):
            taken = True
        else:
            reading = reading or read_at(given)
            taken = _same_graph(module, reading, other, read_at, kind)
        if taken:
            sizes.append(other)
        else:
            refused.append(shapes(other))
    far = given.resized(None, FAR) if own is not None and given.batch is not None else given
    steps = trace(module, far) if far is not given else None
    if own is not None and steps is not None and not same_path(own, steps):
        _same_graph(module, reading or read_at(given), far, read_at, "batch")
    notes = [f"checked with inputs of shape {'; '.join(map(shapes, sizes))}"]
    if refused:
        notes.append(f"not checked with {'; '.join(refused)}: the module doesn't take them")
    if given.kwargs:
        notes.append(f"holds for these keyword arguments: {', '.join(given.kwargs)}")
    return sizes, tuple(notes)


def shapes(given: Arguments) -> str:
    """Write the shapes of the tensors as the command line takes them."""
    return ", ".join("x".join(map(str, item.shape)) or "scalar" for item in given.tensors) or "none"


def _others(given: Arguments) -> Iterator[tuple[str, Arguments]]:
    yield from (("batch", other) for other in other_batches(given))
    yield from (("size", other) for other in other_sizes(given))


def _trace_as_run(module: nn.Module, given: Arguments) -> tuple[Step, ...] | None:
    """Give the trace, if it is the path of a real run too: a forward can look at the device, or at numbers."""
    steps = trace(module, given)
    if steps is None:
        return None
    try:
        real, _ = recorded_outputs(module, given)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        name = type(module).__name__
        raise CaptureError(f"{name} doesn't take these inputs ({type(error).__name__}: {line})") from error
    return steps if real == steps else None


def _same_graph(module: nn.Module, reading: Reading, other: Arguments, read_at: ReadAt, kind: str) -> bool:
    """Compare captures. False where the module can't be captured with these inputs."""
    try:
        again = read_at(other)
    except CaptureError:
        return False
    parted = difference(form(reading.graph, reading.tensors), form(again.graph, again.tensors))
    if parted:
        raise CaptureError(
            f"{type(module).__name__}: forward takes another path for inputs of shape {shapes(other)}: {parted}; "
            f"fold the submodules that don't look at the {kind}"
        )
    return True
