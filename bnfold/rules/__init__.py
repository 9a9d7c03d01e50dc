"""The rules: for each operator its relation of frames, and how its constants follow. One family a module.

Importing the package fills the two registries (`relation`, `rewritten`), so every family is named here.
"""

import bnfold.rules.activation
import bnfold.rules.affine
import bnfold.rules.bilinear
import bnfold.rules.einsum
import bnfold.rules.joining
import bnfold.rules.layout
import bnfold.rules.linear
import bnfold.rules.padding
import bnfold.rules.parameter
import bnfold.rules.pooling
import bnfold.rules.recurrent  # noqa: F401  registering is what importing it is for
from bnfold.rules.base import relation, rewritten

__all__ = ["relation", "rewritten"]
