"""The check itself: what `bnfold.check` takes, and how it is begun."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnfold.checking import samples
from bnfold.checking.frames import Correspondence
from bnfold.checking.providers import parse_targets
from bnfold.checking.result import AuditRow, CheckResult
from bnfold.checking.session import Check, Options
from bnfold.checking.subject import Subject, load_subject
from bnfold.errors import BnfoldError

__all__ = ["Check", "Options", "check"]


def check(
    reference: Any,
    candidate: Any,
    inputs: Any = None,
    providers: str | Sequence[str] = ("cpu",),
    *,
    seed: int = 0,
    search: int = 0,
    allow_missing: bool = False,
    allow_fallback: bool = False,
    by_position: bool = False,
    allow_folded_reference: bool = False,
    budget: Mapping[str, float] | None = None,
    correspondence: Correspondence | None = None,
    audit: Sequence[AuditRow] | None = None,
    localise: bool = True,
    only_given: bool = False,
    save: str | Path | None = None,
    arch: str | None = None,
    arch_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> CheckResult:
    """Are `reference` and `candidate` the same function?

    reference, candidate: an nn.Module, an onnx.ModelProto, or a path to a .pt, .pt2 or .onnx file; `candidate` may be a
    list of them. inputs: samples of your own beside the drawn ones: a path (.npz, .npy, a folder of such), an array, a
    tuple of arrays (one an input), a dict by input name, or a list of any of these. providers: for instance
    "cpu,cuda:use_tf32=0,device_id=1"; `level` and `threads` are options too.

    search: steps of gradient ascent for the input that tells the two apart most. allow_missing: a provider that is not
    there is a skip. allow_fallback: nodes may run on the CPU. by_position: pair inputs and outputs in their order.
    allow_folded_reference: take a reference whose BatchNorm was folded by its exporter. budget: figures in place of the
    table's (rms, channel, peak, floor, ceiling). correspondence: {value of the reference: Frame(value of the candidate,
    axis, scale, shift)}, for naming the first divergence. audit: rows of a weight audit, judged with the outputs.
    localise: name the first divergence. only_given: draw no inputs beside `inputs`. save: a file for the smallest
    input that shows a difference. arch, arch_kwargs, trust: how a .pt file is opened.

    Never raises for a difference: see `CheckResult.verdict`. Raises `BnfoldError` (exit status 2) for what can't be
    read and `UnsafeError` (4) for a file that is not safe to open.
    """
    options = Options(
        seed, search, allow_missing, allow_fallback, by_position, allow_folded_reference, budget, correspondence, audit,
        localise, only_given, Path(save) if save else None,
    )  # fmt: skip
    targets = parse_targets(providers)
    many = list(candidate) if isinstance(candidate, (list, tuple)) else [candidate]
    side, *others = _loaded([reference, *many], inputs, arch=arch, arch_kwargs=arch_kwargs, trust=trust)
    return Check(side, others, targets, options).run(inputs)


def _loaded(models: Sequence[Any], inputs: Any, **loading: Any) -> list[Subject]:
    """Load the reference and its candidates; a module learns from the user's samples what it takes."""
    if len(models) < 2:
        raise BnfoldError("no candidate to check")
    examples = samples.first_arrays(inputs) if inputs is not None else ()
    return [load_subject(model, examples=examples, **loading) for model in models]
