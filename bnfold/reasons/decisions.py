"""Affines that stay because somebody decided so."""

from bnfold.reasons.page import Page
from bnfold.why import Why

DECISIONS = {
    Why.RIVAL: Page(
        """\
Two affines ask for different numbers in the same tensor, so that only one of them can be folded. The one that
comes first is taken, unless more are folded in the other order.""",
        """
y = conv(x)
bn1(y), bn2(y)             # one of them folds into conv, and the other takes that back and stays
""",
    ),
    Why.SKIPPED: Page(
        """\
The patterns of --only and --skip leave this affine out.""",
        """
bnfold fold model.pt --skip 'head.*'
""",
    ),
    Why.SLOWER: Page(
        """\
The fold is exact, but it would put as many operators in as it takes out: a scale that goes into a weight while
the shift stays as an Add, for example. The default level never makes a model slower.""",
        """
y = MatMul(x, W)           # no bias: the shift of what follows would need an Add of its own
""",
    ),
}
