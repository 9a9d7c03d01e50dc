"""The path of a forward as steps, calls of functions of torch; and whether two paths are the same, or as planned."""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

_SIZED = frozenset({"view", "reshape", "expand", "repeat", "unflatten", "interpolate", "upsample", "arange", "zeros"})

_OF = " of axis "


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a function of torch.

    path: of the innermost module around it. operands: tensors by where they come from, the rest by its text.
    """

    path: str
    name: str
    operands: tuple[str, ...]
    result: str


Steps: TypeAlias = tuple[Step, ...]
Line: TypeAlias = tuple[str, ...]


def same_path(first: Sequence[Step], second: Sequence[Step], *, larger: bool = False) -> bool:
    """Whether two traces of one module, at two sizes, are the same but for lengths given to views and slices.

    larger: as in `same_line`.
    """
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(
        same_line(_without_lengths(one), _without_lengths(other), larger=larger) for one, other in pairs
    )


def same_line(first: Line, second: Line, *, larger: bool = False) -> bool:
    """Whether two lines are equal, but for parts of axes whose lengths differ: which part it is follows from that.

    larger: not the batch alone but the map has another size, and parts of any axis but the channels' follow from it.
    """
    return first == second or (
        len(first) == len(second)
        and all(_same_text(one, other, larger) for one, other in zip(first, second, strict=True))
    )


def part_of(text: str, axis: int, length: object) -> str:
    """Write a part of an axis of this length, so that `same_line` knows it."""
    return f"{text}{_OF}{axis}:{length}"


def _same_text(first: str, second: str, larger: bool) -> bool:
    (_, is_part, one), (_, is_other, other) = first.rpartition(_OF), second.rpartition(_OF)
    if first == second or not (is_part and is_other):
        return first == second
    return one != other or (larger and not one.startswith("1:"))


def _without_lengths(step: Step) -> Line:
    sized = step.name in _SIZED
    return (step.name, *(text for text in step.operands if not (sized and text.lstrip("-").isdigit())))


def is_as_planned(before: Sequence[Step], after: Sequence[Step], replaced: Collection[str], biases: Set[str]) -> bool:
    """Whether a trace is what another one becomes without the own code of some submodules.

    replaced: their paths; what their code is given takes the place of what it gives. biases: new parameters, each of
    which stands somewhere where there was None.
    """
    wanted, got = _lines(before, replaced), _lines(after, ())
    new = {f"{path}@0" for path in biases}
    if len(wanted) != len(got) or not new <= {text for line in got for text in line}:
        return False
    return all(
        len(one) == len(other) and all(a == b or (a == "None" and b in new) for a, b in zip(one, other, strict=True))
        for one, other in zip(wanted, got, strict=True)
    )


def _lines(steps: Sequence[Step], replaced: Collection[str]) -> list[Line]:
    """Write the steps with their operands numbered anew, less those of `replaced` submodules."""
    origin: dict[str, str] = {}  # by step, as it was numbered: what it is now
    given: dict[str, str] = {}  # by submodule: what its code is given first
    lines: list[Line] = []
    for step in steps:
        operands = [_resolved(text, origin) for text in step.operands]
        if step.path in replaced and step.name != "output":
            moving = [text for text in operands if text.startswith(_COMPUTED)]
            first = given.get(step.path) or (moving[0].rpartition("@")[0] if moving else "constant")
            given[step.path] = origin[step.result] = first
        else:
            origin[step.result] = f"step {len(lines)}"
            lines.append((step.name, *operands))
    return lines


_COMPUTED = ("step ", "input ")


def _resolved(text: str, origin: Mapping[str, str]) -> str:
    label, at, version = text.rpartition("@")
    step, _, index = label.rpartition(".")
    if not at or step not in origin:
        return text
    return f"{origin[step]}{'' if index == '0' else f' output {index}'}@{version}"
