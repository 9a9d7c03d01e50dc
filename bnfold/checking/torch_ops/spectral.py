"""Fourier transforms. A complex number is a pair on the last axis, of length 2; a real one has length 1 there."""

import torch
from torch import Tensor

from bnfold.checking.torch_ops.registry import Node, operator


def _complex(x: Tensor) -> Tensor:
    return torch.complex(x[..., 0], x[..., 1]) if x.shape[-1] == 2 else x[..., 0]


def _pairs(x: Tensor) -> Tensor:
    return torch.stack((x.real, x.imag), -1)


@operator("DFT")
def dft(node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Along an axis that is an attribute up to opset 19; one-sided and inverse: from half of a spectrum to reals.

    length: of the transformed axis (of the result, where that is real), cut or filled up with zeros.
    """
    along = node.whole("axis", 1) if node.opset < 20 else -2 if axis is None else int(axis)
    along, n = along % x.ndim, None if length is None else int(length)
    if not node.whole("onesided", 0):
        return _pairs((torch.fft.ifft if node.whole("inverse", 0) else torch.fft.fft)(_complex(x), n, along))
    if not node.whole("inverse", 0):
        return _pairs(torch.fft.rfft(x[..., 0], n, along))
    whole: Tensor = torch.fft.irfft(_complex(x), n, along)
    return whole.unsqueeze(-1)


@operator("STFT")
def stft(node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """Of frames of a signal, (batch, length, 1 or 2), each times the window: (batch, frames, bins, 2)."""
    assert window is not None or length is not None
    size = int(length) if length is not None else len(window)  # type: ignore[arg-type]
    frames = _complex(x).unfold(1, size, int(step))
    frames = frames if window is None else frames * window
    onesided = node.whole("onesided", 1) and x.shape[-1] == 1
    return _pairs((torch.fft.rfft if onesided else torch.fft.fft)(frames))
