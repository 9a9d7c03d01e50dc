"""A run of a module: its path, its outputs, and what that path can depend on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bnfold.adapters.torch_assembly import captured_from
from bnfold.adapters.torch_capture import Arguments, CaptureError
from bnfold.adapters.torch_reading import AliasedError, Reading, read_captured
from bnfold.adapters.torch_restoring import unchanged
from bnfold.adapters.torch_steps import Steps
from bnfold.adapters.torch_tape import Tape, Taping
from bnfold.adapters.torch_trace import Recorder, trace
from bnfold.adapters.torch_truth import fresh, tensors_in

FAR = 65  # a batch beyond what forwards look for ("at least 8", "more than 64"); it is traced and never run


@dataclass(frozen=True, eq=False)
class Walk:
    """A run without gradients, and the way that it took.

    blind: nobody asked for the length of an axis, so that the path can't depend on one. tape: where there is one, and
    it tells what torch.export would tell.
    """

    steps: Steps
    outputs: Sequence[Tensor]
    blind: bool
    tape: Tape | None = None


def walked(module: nn.Module, given: Arguments) -> Walk:
    """Run a module, which stays as it is."""
    return _walked(Recorder(module), module, given)


def _walked(recorder: Recorder, module: nn.Module, given: Arguments) -> Walk:
    with torch.no_grad(), unchanged(module) as changes:
        result = recorder.run(module, fresh(given))
    whole = recorder.complete and not changes.found
    tape = recorder.tape if whole and isinstance(recorder, Taping) else None
    return Walk(tuple(recorder.steps), tensors_in(result), whole and not recorder.asked, tape)


def confirmed(module: nn.Module, given: Arguments) -> Walk | None:
    """Run, and trace: a forward can look at the device, or at numbers, and then a trace tells nothing.

    None where the trace takes another path. The tape is there where it tells the path of an exported forward too.
    Raises CaptureError where the module doesn't run.
    """
    try:
        found = _walked(Taping(module), module, given)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        name = type(module).__name__
        raise CaptureError(f"{name} doesn't take these inputs ({type(error).__name__}: {line})") from error
    if found.blind and found.tape is not None and _is_alike_far_away(found, module, given):
        return found
    found = replace(found, blind=False)
    if found.tape is not None and trace(module, given, exporting=True) == found.steps:
        return found
    return replace(found, tape=None) if trace(module, given) == found.steps else None


def _is_alike_far_away(found: Walk, module: nn.Module, given: Arguments) -> bool:
    """Whether a trace says as well that the size has no part in the path, as far from the given one as it goes."""
    far = far_from(given)
    steps = None if far is None else trace(module, far, exporting=True)
    return found.steps == (steps or trace(module, given, exporting=True))


def far_from(given: Arguments) -> Arguments | None:
    """Give a batch that would be long to run; None where there is no batch."""
    return None if given.batch is None else given.resized(None, FAR)


def read_walk(found: Walk | None, module: nn.Module, given: Arguments) -> Reading | None:
    """Read the tape of a run; None where torch.export has to be asked."""
    captured = None if found is None or found.tape is None else captured_from(found.tape, module, given)
    try:
        return None if captured is None else read_captured(captured, module)
    except AliasedError:
        return None
