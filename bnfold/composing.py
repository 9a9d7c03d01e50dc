"""Two folds, one after the other, as one: their edits, node by node, and their frames, value by value."""

from collections.abc import Iterable, Mapping

import numpy as np

from bnfold.affine import Affine, Chain, Chains
from bnfold.plan import Edit, Remove, ReplaceByClip, ScaleWeight, SetBias, SetBounds, SetConstants


def composed_edits(first: Iterable[Edit], second: Iterable[Edit]) -> tuple[Edit, ...]:
    """Give edits of the first graph that do what both do. second: of the graph that the first made, exactly."""
    found: dict[tuple[str, str], Edit] = {}
    for edit in (*first, *second):
        if isinstance(edit, Remove):
            found = {key: one for key, one in found.items() if key[0] != edit.node}
        part = type(edit).__name__ if isinstance(edit, ScaleWeight | SetBias) else ""
        key = edit.node, part
        found[key] = _both(found[key], edit) if key in found else edit
    return tuple(found.values())


def _both(one: Edit, other: Edit) -> Edit:
    match one, other:
        case ScaleWeight(), ScaleWeight():
            return ScaleWeight(one.node, one.out_factor * other.out_factor, one.in_factor * other.in_factor)
        case SetConstants(), SetConstants():
            return SetConstants(one.node, {**one.constants, **other.constants})
        case ReplaceByClip(node, axis, lo, hi), SetConstants(_, constants):
            return ReplaceByClip(node, axis, constants.get(1, lo), constants.get(2, hi))
        case (SetBias(), SetBias()) | (SetBounds() | ReplaceByClip(), SetBounds() | ReplaceByClip()):
            return other
        case _:
            raise AssertionError(f"{one.node}: {type(one).__name__}, then {type(other).__name__}")


def composed_frames(first: Chains, second: Chains, later: Mapping[str, str]) -> dict[str, Chain]:
    """Give the frames of all values, T = first(second(T')).

    later: by the name of a value of the first graph, that of the second's which stands for it.
    """
    chains = {name: (*first.get(name, ()), *second.get(later.get(name, ""), ())) for name in {**first, **later}}
    joined = {name: _joined(chain) for name, chain in chains.items() if chain}
    return {name: chain for name, chain in joined.items() if chain}


def _joined(chain: Chain) -> Chain:
    """Make neighbours along one axis one frame; an identity is left out, which may make neighbours of others."""
    result: list[Affine] = []
    for frame in chain:
        if result and result[-1].axis == frame.axis:
            frame = _after(result.pop(), frame)
        if not frame.is_identity:
            result.append(frame)
    return tuple(result)


def _after(outer: Affine, frame: Affine) -> Affine:
    """Compose; where shifts cancel but for float64's rounding, there is none."""
    both = outer.after(frame)
    noise = 4 * np.finfo(np.float64).eps * np.abs(outer.shift)
    return Affine(both.axis, both.scale, np.where(np.abs(both.shift) <= noise, 0.0, both.shift))
