"""Images with labels, in two parts: those that train, and those that are held out to judge."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import BnfoldError

HELD_OUT: Final = 0.2
_MOST_CLASSES: Final = 1000  # where there are fewer images; more classes than images can't be meant
_SPLIT_SEED: Final = 0  # not the user's seed: runs with different seeds must be judged on the same images

Images = NDArray[Any]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of (N, channels, height, width) and labels of (N,), which index `classes`.

    Images are uint8 or floating; `peak` is the value that stands for white, so that images / peak lies in [0, 1].
    """

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: tuple[str, ...]
    peak: float

    @property
    def channels(self) -> int:
        """Give the number of channels."""
        return int(self.train_images.shape[1])

    def fingerprint(self) -> str:
        """Give a text that differs when any image or label does."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def checked(dataset: Dataset) -> Dataset:
    """Give `dataset` back, or raise BnfoldError where its parts don't fit together or nothing can be learnt."""
    for part, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        where = f"{dataset.name}: the {part} part"
        if len(images) != len(labels):
            raise BnfoldError(f"{where} has {len(images)} images and {len(labels)} labels; they must pair up")
        if images.size == 0:
            raise BnfoldError(f"{where} is empty; give images of at least one pixel")
        if images.shape[1:] != dataset.train_images.shape[1:]:
            raise BnfoldError(
                f"{where} has images of {images.shape[1:]}, not {dataset.train_images.shape[1:]} as the train part"
            )
        if not np.isfinite(images).all():
            raise BnfoldError(f"{where} has NaN or infinite pixels; remove them")
        if labels.min() < 0 or labels.max() >= len(dataset.classes):
            raise BnfoldError(
                f"{where} has labels from {labels.min()} to {labels.max()}; with {len(dataset.classes)} classes "
                f"they run from 0 to {len(dataset.classes) - 1}"
            )
    if len(dataset.train_images) < 2:
        raise BnfoldError(f"{dataset.name}: one image trains no BatchNorm; give at least two")
    if dataset.train_images.min() == dataset.train_images.max():
        raise BnfoldError(f"{dataset.name}: all pixels are {dataset.train_images.flat[0]}; there is nothing to learn")
    return dataset


def class_count(name: str, *parts: Labels) -> int:
    """Give the number of classes, from 0 to the largest label. Raises BnfoldError where that is no class."""
    largest = max((int(labels.max()) for labels in parts if labels.size), default=0)
    most = max(_MOST_CLASSES, sum(map(len, parts)))
    if largest >= most:
        raise BnfoldError(f"{name}: has the label {largest}; classes are numbered from 0, so give less than {most}")
    return largest + 1


def held_out(labels: Labels, name: str) -> NDArray[np.bool_]:
    """Mark a fifth of each class, at least one and never all, always the same for the same labels.

    Raises BnfoldError for a class with a single image.
    """
    random = np.random.default_rng(_SPLIT_SEED)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise BnfoldError(f"{name}: class {label} has one image; two are needed, one to train and one to judge")
        mask[random.permutation(members)[: max(1, round(HELD_OUT * len(members)))]] = True
    return mask


def split(name: str, images: Images, labels: Labels, classes: tuple[str, ...], peak: float) -> Dataset:
    """Hold a fifth of each class out."""
    test = held_out(labels, name)
    return checked(Dataset(name, images[~test], labels[~test], images[test], labels[test], classes, peak))
