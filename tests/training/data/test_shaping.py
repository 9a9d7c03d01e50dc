"""Images become what a network takes."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bnfold.training.data.dataset import Dataset
from bnfold.training.data.shaping import image_size, normalisation, normalise_, to_inputs

RAMP = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 16), (3, 5, 4, 4), (3, 28, 28), (3, 2, 2), (3, 2, 6, 6)])
def test_shapes(shape):
    x = to_inputs(RAMP, 255.0, shape)
    assert x.shape == (2, *shape)
    assert x.dtype == torch.float32


def test_one_size_is_only_scaled():
    assert_allclose(to_inputs(RAMP, 10.0, (3, 4, 4)).numpy(), RAMP / 10, rtol=1e-7)


def test_a_signal_is_the_image_row_by_row():
    assert_allclose(to_inputs(RAMP, 1.0, (3, 16)).numpy(), RAMP.reshape(2, 3, 16))


def test_shrinking_averages():
    checkers = np.indices((8, 8)).sum(0)[None, None] % 2
    assert_allclose(to_inputs(checkers.astype(np.uint8), 1.0, (1, 2, 2)).numpy(), 0.5, atol=0.1)


def test_a_volume_is_a_moving_image():
    clip = to_inputs(RAMP, 1.0, (3, 4, 4, 4)).numpy()
    image = RAMP.astype(np.float32)
    assert_allclose(clip[:, :, 1], image)
    assert_allclose(clip[:, :, 0, :, :3], image[..., 1:])
    assert_allclose(clip[:, :, 0, :, 3], 0)
    assert_allclose(clip[:, :, 3, :, 2:], image[..., :2])
    assert_allclose(clip[:, :, 3, :, :2], 0)


def test_a_large_corpus_in_chunks(monkeypatch):
    whole = to_inputs(RAMP, 1.0, (3, 6, 6))
    monkeypatch.setattr("bnfold.training.data.shaping._CHUNK", 1)
    assert torch.equal(to_inputs(RAMP, 1.0, (3, 6, 6)), whole)


def test_image_sizes():
    assert image_size((1, 256)) == (16, 16)
    assert image_size((1, 6, 20, 10)) == (20, 10)
    with pytest.raises(ValueError, match="not a square"):
        image_size((1, 200))


def test_normalised_channels_have_mean_0_and_deviation_1():
    images = np.random.default_rng(0).normal([[[[1.0]], [[5]], [[3]]]], [[[[2.0]], [[0]], [[0.5]]]], (50, 3, 4, 4))
    labels = np.zeros(50, np.int64)
    dataset = Dataset("x", images, labels, images, labels, ("a",), peak=2.0)
    mean, std = normalisation(dataset)
    assert std[1] == 1
    x = normalise_(to_inputs(images, 2.0, (3, 4, 4)), mean, std)
    assert_allclose(x.mean((0, 2, 3)).numpy(), 0, atol=1e-6)
    assert_allclose(x.std((0, 2, 3), correction=0).numpy(), [1, 0, 1], atol=1e-6)
