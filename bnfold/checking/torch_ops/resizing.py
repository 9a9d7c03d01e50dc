"""Resize and Upsample, as one interpolation matrix for each axis: y[..., i, ...] = sum_j M[i, j] x[..., j, ...]."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bnfold.checking.torch_ops.registry import MissingOperatorError, Node, integers, operator

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@operator("Resize")
def resize(node: Node, x: Tensor, *inputs: Tensor | None) -> Tensor:
    """To the sizes given, or by the scales given; opset 10 has scales alone."""
    roi, scales, sizes = (None, *inputs, None, None)[:3] if node.opset < 11 else (*inputs, None, None, None)[:3]
    axes = [axis % x.ndim for axis in node.get("axes") or range(x.ndim)]
    if node.opset < 11:
        coordinates, nearest = "asymmetric", "floor"
    else:
        coordinates = node.get("coordinate_transformation_mode", "half_pixel")
        nearest = node.get("nearest_mode", "round_prefer_floor")
    wanted = integers(sizes)
    factors = [] if scales is None else scales.reshape(-1).tolist()
    region = [] if roi is None else roi.reshape(-1).tolist()
    for i, axis in enumerate(axes):
        old = x.shape[axis]
        new = wanted[i] if wanted else math.floor(old * factors[i])
        factor = factors[i] if not wanted else new / old
        bounds = (region[i], region[i + len(axes)]) if coordinates == "tf_crop_and_resize" else (0.0, 1.0)
        if factor != 1 or bounds != (0.0, 1.0):
            places = _places(coordinates, old, new, factor, bounds)
            x = _apply(x, axis, _matrix(node, places, old, nearest, coordinates))
    return x


@operator("Upsample")
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Resize's predecessor: asymmetric coordinates, rounded down."""
    factors = list(node.get("scales")) if scales is None else scales.reshape(-1).tolist()
    for axis, factor in enumerate(factors):
        if factor != 1:
            old = x.shape[axis]
            places = torch.arange(math.floor(old * factor), dtype=torch.float64) / factor
            x = _apply(x, axis, _matrix(node, places, old, "floor", "asymmetric"))
    return x


def _apply(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    return torch.movedim(torch.movedim(x, axis, -1) @ matrix.to(x.dtype).T, -1, axis)


def _places(mode: str, old: int, new: int, factor: float, bounds: tuple[float, float]) -> Tensor:
    """Where each new element lies on the old axis."""
    at = torch.arange(new, dtype=torch.float64)
    if mode == "half_pixel":
        return (at + 0.5) / factor - 0.5
    if mode == "half_pixel_symmetric":
        return old / 2 * (1 - new / (factor * old)) + (at + 0.5) / factor - 0.5
    if mode == "pytorch_half_pixel":
        return (at + 0.5) / factor - 0.5 if new > 1 else torch.zeros_like(at)
    if mode == "align_corners":
        return at * (old - 1) / (new - 1) if new > 1 else torch.zeros_like(at)
    if mode == "asymmetric":
        return at / factor
    start, end = bounds  # tf_crop_and_resize
    if new == 1:
        return torch.full_like(at, 0.5 * (start + end) * (old - 1))
    return start * (old - 1) + at * (end - start) * (old - 1) / (new - 1)


def _matrix(node: Node, places: Tensor, old: int, nearest: str, coordinates: str) -> Tensor:
    mode = node.get("mode", "nearest")
    matrix = torch.zeros(len(places), old, dtype=torch.float64)
    if mode == "nearest":
        columns = _NEAREST[nearest](places).long().clamp(0, old - 1)
        matrix[torch.arange(len(places)), columns] = 1
    else:
        matrix = _interpolated(node, places, old)
    if coordinates == "tf_crop_and_resize":
        outside = (places < 0) | (places > old - 1)
        if bool(outside.any()) and node.number("extrapolation_value", 0.0) != 0.0:
            raise MissingOperatorError(("Resize with extrapolation_value",))
        matrix[outside] = 0
    return matrix


def _interpolated(node: Node, places: Tensor, old: int) -> Tensor:
    mode = node.get("mode")
    base = torch.floor(places)
    offsets = range(-1, 3) if mode == "cubic" else range(2)
    weights = [_weight(node, mode, (places - base - offset).abs()) for offset in offsets]
    columns = [(base + offset).long() for offset in offsets]
    if mode == "cubic" and node.whole("exclude_outside", 0):
        weights = [w * ((c >= 0) & (c < old)) for w, c in zip(weights, columns, strict=True)]
        total = torch.stack(weights).sum(0)
        weights = [w / total for w in weights]
    matrix = torch.zeros(len(places), old, dtype=torch.float64)
    rows = torch.arange(len(places))
    for weight, column in zip(weights, columns, strict=True):
        matrix.index_put_((rows, column.clamp(0, old - 1)), weight, accumulate=True)
    return matrix


def _weight(node: Node, mode: str, distance: Tensor) -> Tensor:
    if mode == "linear":
        return 1 - distance
    a = node.number("cubic_coeff_a", -0.75)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
