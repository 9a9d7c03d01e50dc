"""Two folds, one after the other, as one: their edits, node by node, and their frames, value by value."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bnfold.affine import Affine, Frames
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


def composed_frames(
    first: Sequence[Frames], second: Sequence[Frames], later: Mapping[str, str]
) -> tuple[dict[str, Affine], dict[str, Affine]] | None:
    """Give the outer frames and the inner ones, T = outer(inner(T')), of all values; None where two aren't enough.

    first, second: outer and inner frames of either fold. later: by the name of a value of the first graph, that of the
    second's which stands for it.
    """
    outer: dict[str, Affine] = {}
    inner: dict[str, Affine] = {}
    for name in {**first[0], **later}:
        chain = [frames[name] for frames in first if name in frames]
        chain += [frames[later[name]] for frames in second if later.get(name) in frames]
        chain = _shortened(chain)
        if len(chain) > 2:
            return None
        for frames, frame in zip((outer, inner), chain, strict=False):
            frames[name] = frame
    return outer, inner


def _shortened(chain: Sequence[Affine]) -> list[Affine]:
    """Join neighbours along one axis, the outermost first in the chain; an identity is left out."""
    result: list[Affine] = []
    for frame in chain:
        if result and result[-1].axis == frame.axis:
            frame = _after(result.pop(), frame)
        if not frame.is_identity:
            result.append(frame)
    return result


def _after(outer: Affine, frame: Affine) -> Affine:
    """Compose; where shifts cancel but for float64's rounding, there is none."""
    both = outer.after(frame)
    noise = 4 * np.finfo(np.float64).eps * np.abs(outer.shift)
    return Affine(both.axis, both.scale, np.where(np.abs(both.shift) <= noise, 0.0, both.shift))
