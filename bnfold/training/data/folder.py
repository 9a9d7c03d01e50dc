"""Folders of images, one for each class."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import BnfoldError
from bnfold.training.data.dataset import Dataset, Labels, checked, split

_SUFFIXES: Final = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_GREY: Final = frozenset(("1", "L", "LA"))
_HELD_OUT_NAMES: Final = frozenset(("test", "val", "valid"))


def read(place: str, size: tuple[int, int]) -> Dataset:
    """Read DIR/class/image, or DIR/train/class/image with DIR/test/class/image, as images of `size`.

    Without a test part a fifth of each class is held out. Images are grey where all files are, else RGB.
    """
    name = f"folder:{place}"
    root = Path(place)
    if not root.is_dir():
        raise BnfoldError(f"{name}: no such folder; give one with a folder of images for each class")
    held_out = [path for path in _folders(root) if path.name in _HELD_OUT_NAMES]
    parted = len(held_out) == 1 and {path.name for path in _folders(root)} == {"train", held_out[0].name}
    if not parted:
        files, labels, classes = _list(root, name)
        return split(name, _load(files, size, _mode(files)), labels, classes, peak=255.0)
    train_files, train_labels, classes = _list(root / "train", name)
    test_files, test_labels, test_classes = _list(held_out[0], name)
    if classes != test_classes:
        odd = min(set(classes) ^ set(test_classes))
        raise BnfoldError(f"{name}: class {odd!r} is in only one of train and {held_out[0].name}; each has all classes")
    mode = _mode([*train_files, *test_files])
    train, test = _load(train_files, size, mode), _load(test_files, size, mode)
    return checked(Dataset(name, train, train_labels, test, test_labels, classes, peak=255.0))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list(root: Path, name: str) -> tuple[list[Path], Labels, tuple[str, ...]]:
    """Give the image files below `root`, their labels, and the classes, in an order that no file system decides."""
    classes = _folders(root)
    if len(classes) < 2:
        raise BnfoldError(f"{name}: {root} holds {len(classes)} folders; give one with a folder for each class")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not images:
            raise BnfoldError(f"{name}: {folder} holds no images ({', '.join(sorted(_SUFFIXES))}); fill or remove it")
        files += images
        labels += [label] * len(images)
    return files, np.array(labels, np.int64), tuple(folder.name for folder in classes)


def _mode(files: Sequence[Path]) -> str:
    """Look at the headers alone."""
    for path in files:
        with _opened(path) as image:
            if image.mode not in _GREY:
                return "RGB"
    return "L"


def _load(files: Sequence[Path], size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    """Read images as uint8 of (N, 1 or 3, height, width)."""
    height, width = size
    out = np.empty((len(files), 1 if mode == "L" else 3, height, width), np.uint8)
    for index, path in enumerate(files):
        with _opened(path) as image:
            pixels = np.asarray(image.convert(mode).resize((width, height)), np.uint8)
        out[index] = pixels.reshape(height, width, -1).transpose(2, 0, 1)
    return out


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open with Pillow, which refuses an image of billions of pixels and here one that it only warns of, too."""
    try:
        from PIL import Image
    except ImportError as error:
        raise BnfoldError(
            f"data 'folder': Pillow reads the images and can't be imported ({error}); install bnfold[train]"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                yield image
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombWarning,
            Image.DecompressionBombError,
        ) as error:
            raise BnfoldError(f"{path}: can't be read as an image ({error}); replace or remove it") from error
