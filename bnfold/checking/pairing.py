"""Which input and output of the candidate stands for which of the reference. Nothing is paired in silence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bnfold.checking.result import Verdict
from bnfold.checking.subject import InputSpec, Subject


@dataclass(frozen=True)
class Pairing:
    """Pairs (reference's name, candidate's name), what was assumed for them, and what stands in the way."""

    pairs: tuple[tuple[str, str], ...]
    assumptions: tuple[str, ...] = ()
    faults: tuple[tuple[Verdict, str], ...] = ()


def pair(what: str, reference: Sequence[str], candidate: Sequence[str], *, named: bool, by_position: bool) -> Pairing:
    """Pair names of one kind (`what`: input or output).

    By name where both sides have names (`named`) or all are the same, by position where one has none (a module) or
    where the user said so.
    A name without a counterpart is a difference; no common name at all proves nothing, and is left to the user.
    """
    if by_position or not (named or set(reference) == set(candidate)):
        return _by_position(what, reference, candidate, named=named)
    common = [name for name in reference if name in candidate]
    if not common and reference:
        why = (
            f"no {what} has the same name on both sides ({', '.join(reference)} against {', '.join(candidate)});"
            " rename them, or pair them with --by-position"
        )
        return Pairing((), faults=((Verdict.UNVERIFIED, why),))
    lone = [f"{what} {name} has no counterpart in the candidate" for name in reference if name not in candidate]
    lone += [f"{what} {name} of the candidate has none in the reference" for name in candidate if name not in reference]
    return Pairing(tuple((name, name) for name in common), faults=tuple((Verdict.DIFFERENT, why) for why in lone))


def _by_position(what: str, reference: Sequence[str], candidate: Sequence[str], *, named: bool) -> Pairing:
    if len(reference) != len(candidate):
        why = f"the candidate has {len(candidate)} {what}s where the reference has {len(reference)}"
        return Pairing((), faults=((Verdict.DIFFERENT, why),))
    reason = "as asked for" if named else "a module's have no names of their own"
    # Of one input, or of one output that is all that a module gives, there is nothing to mistake.
    plain = len(reference) == 1 and not named and (what == "input" or "output" in (*reference, *candidate))
    same = plain or tuple(reference) == tuple(candidate)
    assumed = () if same else (f"{what}s were paired by position ({reason})",)
    return Pairing(tuple(zip(reference, candidate, strict=True)), assumed)


def common_specs(reference: Subject, candidates: Sequence[Subject]) -> tuple[tuple[InputSpec, ...], tuple[str, ...]]:
    """Give the reference's inputs with every dimension fixed that some candidate fixes, and say which.

    Candidates with another number of inputs are left out: pairing reports them.
    """
    specs, notes = list(reference.inputs), []
    for candidate in candidates:
        if len(candidate.inputs) != len(specs):
            continue
        theirs = {spec.name: spec for spec in candidate.inputs}
        for i, spec in enumerate(specs):
            other = theirs.get(spec.name, candidate.inputs[i])
            if len(other.dims) != len(spec.dims):
                continue
            specs[i] = replace(spec, dims=tuple(_narrower(a, b) for a, b in zip(spec.dims, other.dims, strict=True)))
            if specs[i].dims != spec.dims:
                notes.append(f"{candidate.label} takes {spec.name} as {other.dims} only, so no other size was compared")
    return tuple(specs), tuple(notes)


def sizes_apart(reference: Subject, candidate: Subject, order: Sequence[int]) -> str:
    """Say which input of two files has no size that both take; empty where there is none.

    order: the place among the reference's inputs of each of the candidate's; empty where they aren't paired. What is
    known of a module's inputs are the examples that somebody gave.
    """
    if not (reference.named and candidate.named):
        return ""
    for spec, place in zip(candidate.inputs, order, strict=False):
        ours = reference.inputs[place]
        pairs = zip(ours.dims, spec.dims, strict=False)
        fixed = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
        if fixed or len(ours.dims) != len(spec.dims):
            return (
                f"{candidate.label} takes {spec.name} as {_sizes(spec)}, the reference takes {ours.name} as"
                f" {_sizes(ours)}: no size is one that both take; export one of them anew, at the size of the other"
                " or with axes of any length"
            )
    return ""


def _sizes(spec: InputSpec) -> str:
    return "(" + ", ".join(map(str, spec.dims)) + ")"


def _narrower(ours: int | str, theirs: int | str) -> int | str:
    return theirs if isinstance(ours, str) and isinstance(theirs, int) else ours
