"""From images of any size to what a network takes: (N, C, L), (N, C, H, W) or (N, C, D, H, W)."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnfold.training.data.dataset import Dataset

_CHUNK = 4096  # images at a time, so that the float copies of a large corpus never exist at once


def image_size(input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Give the height and width of the images behind inputs of (C, L), (C, H, W) or (C, D, H, W).

    A signal of length L is read from a square image, row by row. Raises ValueError where L is not a square.
    """
    if len(input_shape) > 2:
        return input_shape[-2], input_shape[-1]
    side = math.isqrt(input_shape[1])
    if side * side != input_shape[1]:
        raise ValueError(f"a signal of {input_shape[1]} values is not a square image read row by row")
    return side, side


def to_inputs(images: NDArray[Any], peak: float, input_shape: tuple[int, ...]) -> Tensor:
    """Resize images of (N, C, H, W), divide by `peak` and bring them to float32 of (N, *input_shape).

    Resizing is bilinear, and averages where it shrinks. A signal is the image read row by row. A volume of depth D
    is a clip: frame k shows the image moved by k - (D - 1) // 2 pixels to the right, with zeros where it leaves.
    """
    chunks = np.array_split(images, max(1, math.ceil(len(images) / _CHUNK)))
    return torch.cat([_chunk_to_inputs(chunk, peak, input_shape) for chunk in chunks])


def _chunk_to_inputs(images: NDArray[Any], peak: float, input_shape: tuple[int, ...]) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images, np.float32)) / peak
    size = image_size(input_shape)
    if x.shape[2:] != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    if len(input_shape) == 2:
        return x.flatten(2)
    if len(input_shape) == 4:
        return torch.stack([_moved(x, k - (input_shape[1] - 1) // 2) for k in range(input_shape[1])], dim=2)
    return x


def _moved(x: Tensor, pixels: int) -> Tensor:
    """Move images of (..., W) to the right, or to the left where `pixels` is negative."""
    moved = torch.roll(x, pixels, dims=-1)
    if pixels > 0:
        moved[..., :pixels] = 0
    elif pixels < 0:
        moved[..., pixels:] = 0
    return moved


def normalisation(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the mean and standard deviation of each channel of the training images, of values in [0, 1].

    A channel that never changes gets the deviation 1.
    """
    axes = (0, 2, 3)
    mean = dataset.train_images.mean(axis=axes, dtype=np.float64) / dataset.peak
    std = dataset.train_images.std(axis=axes, dtype=np.float64) / dataset.peak
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def normalise_(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turn x of (N, C, ...) into (x - mean) / std, in place."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    return x.sub_(torch.tensor(mean).view(shape)).div_(torch.tensor(std).view(shape))
