"""What isn't an affine with constants, and numbers that a fold can't bear."""

from bnfold.reasons.page import Page
from bnfold.why import Why

NUMBERS = {
    Why.TRAINING: Page(
        """\
In training mode a BatchNorm normalises by the statistics of the batch. It isn't an affine with constants, and
folding the running statistics would give another function.""",
        """
model.train()              # or one layer that was frozen the wrong way round
bnfold.fold(model, x)
""",
    ),
    Why.NO_STATISTICS: Page(
        """\
The layer keeps no running statistics: it computes mean and variance from its input in every run, in eval mode
too.""",
        """
nn.BatchNorm2d(8, track_running_stats=False)
nn.InstanceNorm2d(8)       # track_running_stats is False by default
""",
    ),
    Why.GAMMA_ZERO: Page(
        """\
In these channels the BatchNorm gives the constant beta. That has no inverse: the channel's rows in the layer
before can be made zero only if there is such a layer and nobody else reads what it gives.""",
        """
y = conv(x)
bn(y) + y                  # bn.weight[3] == 0, and y[:, 3] is needed as it is
""",
    ),
    Why.NOT_FINITE: Page(
        """\
A statistic or weight is NaN or infinite; the model's outputs are, too, or hide it by luck. A fold would spread
it to weights that are sound.""",
        """
bn.running_var             # tensor([1.2, nan, 0.7]): trained in float16, or resumed after a divergence
""",
    ),
    Why.VARIANCE: Page(
        """\
The square root of running_var + eps doesn't exist, or its inverse is infinite. A variance can come out negative
when it is computed as E[x^2] - E[x]^2 in float32.""",
        """
bn.running_var             # tensor([0.9, -0.02]) with eps = 1e-5
""",
    ),
    Why.OVERFLOW: Page(
        """\
A folded weight, bias or tensor would be larger than the largest number of its dtype (65504 in float16).""",
        """
conv = conv.half()         # gamma / sqrt(var + eps) = 3e4 in a channel whose variance is 1e-9
""",
    ),
    Why.PRECISION: Page(
        """\
Along a trunk with residual sums a BatchNorm is taken into what the trunk holds. Where its scale is small, the
shift is large beside the tensor itself, and what is added later drowns in it: a gamma of 1e-6 raises the
float32 error from 7e-8 to 2e-4. A fold may not cost more than the original's own rounding: a mean may not move
further than four standard deviations from zero, as running_mean and running_var tell, unless it was there before.""",
        """
x = x + conv2(relu(bn1(x)))              # bn1.weight[5] == 1e-6
""",
    ),
    Why.UNDERFLOW: Page(
        """\
Folded weights would fall below the smallest normal number of their dtype (6e-5 in float16), where digits are
lost.""",
        """
conv = conv.half()         # bn.weight[2] == 1e-7
""",
    ),
}
