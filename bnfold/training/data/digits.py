"""The UCI handwritten digits that scikit-learn carries: 1,797 images of 8x8 with values from 0 to 16."""

import numpy as np

from bnfold.errors import BnfoldError
from bnfold.training.data.dataset import Dataset, split


def read(_place: str, _size: tuple[int, int]) -> Dataset:
    """Read the digits; needs no network. Raises BnfoldError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BnfoldError(
            f"data 'digits': scikit-learn carries them and can't be imported ({error}); install bnfold[train]"
        ) from error
    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, np.newaxis]
    classes = tuple(str(name) for name in digits.target_names)
    return split("digits", images, digits.target.astype(np.int64), classes, peak=16.0)
