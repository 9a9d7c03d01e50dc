"""NumPy's dtypes by name; ml_dtypes, which has bfloat16 and the like, is imported when one of its own is asked for."""

import functools

import numpy as np


@functools.cache
def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """Give NumPy's dtype of a name, little-endian; ml_dtypes registers bfloat16 and the like."""
    try:
        return np.dtype(name).newbyteorder("<")
    except TypeError:
        import ml_dtypes

        found: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return found
