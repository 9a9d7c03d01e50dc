"""Groups that differ in their numbers alone, as the layers of a deep network do, solved as one.

All folds of such a group are taken together. Where the numbers of some contradict each other, these groups are parted
from the others again.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from bnfold.solving.lanes import Group, LaneRow, LaneTerms, of_lanes
from bnfold.solving.rows import Numbers
from bnfold.views import Indices


def joined(found: Sequence[Group], owner: Sequence[int], absorbs: NDArray[np.bool_]) -> list[Group]:
    """Join the groups of one structure; those that share a fold with another group stay alone.

    owner, absorbs: as `bnfold.solving.system.System` takes them.
    """
    folds = [{owner[row.source] for row in group.rows} - {-1} for group in found]
    homes = Counter(fold for own in folds for fold in own)
    alike: dict[Hashable, list[Group]] = {}
    for number, group in enumerate(found):
        shares = any(homes[fold] > 1 for fold in folds[number])
        alike.setdefault(number if shares else _structure(group, owner, absorbs), []).append(group)
    return [_join(parts) for parts in alike.values()]


def divided(found: Sequence[Group], number: int, lanes: NDArray[np.bool_]) -> list[Group]:
    """Part the lanes of one group, or take the groups with such lanes out of a joined one."""
    group = found[number]
    return [*found[:number], *(_parted(group, lanes) if group.parts else _halves(group, lanes)), *found[number + 1 :]]


def _structure(group: Group, owner: Sequence[int], absorbs: NDArray[np.bool_]) -> Hashable:
    """Give all of a group but the numbers that a lane has of its own."""
    rows: list[Hashable] = []
    before: LaneTerms = ()
    for row in group.rows:
        if row.terms is not before:
            before = row.terms
            terms = tuple([(place, value if isinstance(value, float) else None) for place, value in before])
        rows.append((row.kind, owner[row.source] < 0, terms))
    return absorbs[group.tensors[:, 0]].tobytes(), tuple(rows)


def _join(parts: Sequence[Group]) -> Group:
    if len(parts) == 1:
        return parts[0]
    lanes = [part.unknowns.shape[1] for part in parts]
    rows = []
    before: list[int] = []
    terms: LaneTerms = ()
    for twins in zip(*(part.rows for part in parts), strict=True):
        own = [id(row.terms) for row in twins]
        if own != before:  # those of a scale's row are those of the sign's
            before, terms = own, _terms_behind_another(twins)
        rows.append(
            LaneRow(twins[0].source, twins[0].kind, terms, _behind_another([row.right for row in twins], lanes))
        )
    return Group(np.hstack([part.unknowns for part in parts]), _tensors(parts, lanes), tuple(rows), tuple(parts))


def _tensors(parts: Sequence[Group], lanes: Sequence[int]) -> Indices:
    """Give the tensor of each unknown, (unknowns of a component, lanes)."""
    if all(part.tensors.shape[1] == 1 for part in parts):
        return np.repeat(np.hstack([part.tensors for part in parts]), lanes, axis=1)
    return np.hstack([np.broadcast_to(part.tensors, part.unknowns.shape) for part in parts])


def _terms_behind_another(twins: Sequence[LaneRow]) -> LaneTerms:
    """Join the coefficients of several runs of lanes."""
    coefficients = zip(*([value for _, value in row.terms] for row in twins), strict=True)
    return tuple(
        (place, value if isinstance(value, float) else np.concatenate(values))
        for (place, value), values in zip(twins[0].terms, coefficients, strict=True)
    )


def _behind_another(numbers: Sequence[Numbers], lanes: Sequence[int]) -> Numbers:
    """Join the numbers of several runs of lanes."""
    first = numbers[0]
    if isinstance(first, float) and all(isinstance(other, float) and other == first for other in numbers):
        return first
    pairs = zip(numbers, lanes, strict=True)
    return np.concatenate([np.full(count, one) if isinstance(one, float) else one for one, count in pairs])


def _parted(group: Group, lanes: NDArray[np.bool_]) -> list[Group]:
    ends = np.cumsum([part.unknowns.shape[1] for part in group.parts])
    apart = [bool(own.any()) for own in np.split(lanes, ends[:-1])]
    alone = [part for part, differs in zip(group.parts, apart, strict=True) if differs]
    others = [part for part, differs in zip(group.parts, apart, strict=True) if not differs]
    return [*alone, *([_join(others)] if others else [])]


def _halves(group: Group, mask: NDArray[np.bool_]) -> list[Group]:
    halves = []
    for lanes in (np.flatnonzero(~mask), np.flatnonzero(mask)):
        rows = tuple(
            LaneRow(
                row.source,
                row.kind,
                tuple((name, of_lanes(value, lanes)) for name, value in row.terms),
                of_lanes(row.right, lanes),
            )
            for row in group.rows
        )
        tensors = np.broadcast_to(group.tensors, group.unknowns.shape)
        halves.append(Group(group.unknowns[:, lanes], tensors[:, lanes], rows))
    return halves
