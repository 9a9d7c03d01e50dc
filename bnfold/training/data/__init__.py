"""Data to train on. `read` turns what the user wrote after `--data` into a Dataset."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bnfold.errors import BnfoldError
from bnfold.training.data import digits, folder, idx, npz
from bnfold.training.data.dataset import Dataset

# Each takes the text behind the colon and the (height, width) that the network wants, which only files of
# different sizes need to know.
_KINDS: Final[Mapping[str, Callable[[str, tuple[int, int]], Dataset]]] = MappingProxyType(
    {"digits": digits.read, "idx": idx.read, "npz": npz.read, "folder": folder.read}
)
FORMS: Final = ("digits", "idx:DIR", "npz:FILE", "folder:DIR")


def read(spec: str, size: tuple[int, int]) -> Dataset:
    """Read `digits`, `idx:DIR`, `npz:FILE` or `folder:DIR`; images of different sizes become `size`.

    Raises BnfoldError, with what was found and what was wanted, for a specification or data that can't be used.
    """
    kind, colon, place = spec.partition(":")
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(FORMS)}"
        raise BnfoldError(f"data {spec!r}: no such kind; {advice}")
    if (kind == "digits") == bool(colon) or (colon and not place):
        wanted = next(form for form in FORMS if form.startswith(kind))
        raise BnfoldError(f"data {spec!r}: write {wanted}")
    return _KINDS[kind](place, size)
