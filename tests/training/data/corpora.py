"""Small corpora on disk, sound ones and broken ones."""

import gzip
import struct

import numpy as np
from PIL import Image

NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def arrays(train=20, test=8, shape=(9, 7), classes=4):
    random = np.random.default_rng(5)
    return {
        "x_train": random.integers(0, 256, (train, *shape), np.uint8),
        "y_train": (np.arange(train) % classes).astype(np.uint8),
        "x_test": random.integers(0, 256, (test, *shape), np.uint8),
        "y_test": (np.arange(test) % classes).astype(np.uint8),
    }


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, *, compressed=False, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in NAMES.items():
        content = idx_bytes({**arrays(), **changes}[key])
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def write_image(path, size=(12, 10), mode="L", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = () if mode == "L" else (3,)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    Image.fromarray(pixels).save(path)


def write_folder(root, classes=("cat", "dog"), each=5, mode="L"):
    for label, name in enumerate(classes):
        for index in range(each):
            write_image(root / name / f"{index}.png", (12 + index, 10), mode, seed=10 * label + index)
    return root
