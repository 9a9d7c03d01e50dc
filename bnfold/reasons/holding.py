"""Operators and borders that hold a tensor's frame: what can't pass them."""

from bnfold.reasons.page import Page
from bnfold.why import Why

HOLDING = {
    Why.INPUT: Page(
        """\
Whoever calls the model gives these numbers, so they can't be scaled or shifted in advance. A BatchNorm on an
input can only go forward, into a layer that takes a scale and a shift: a Linear, or a convolution without zero
padding.""",
        """
self.bn = nn.BatchNorm2d(3)
self.conv = nn.Conv2d(3, 16, 3, padding=1)
conv(bn(x))                # backward: x is an input; forward: padding
""",
    ),
    Why.OUTPUT: Page(
        """\
Whoever calls the model reads these numbers, so they must come out as they were. A BatchNorm in front of an
output can go backward only, into the layer that makes its input.""",
        """
y = bn(relu(conv(x)))
return y                   # forward: an output; backward: the ReLU bends (kink)
""",
    ),
    Why.NO_RULE: Page(
        """\
bnfold has no rule for this operator, and what it doesn't know it leaves alone: the tensors that it reads and
writes keep their numbers. Softmax, sigmoid, LayerNorm and the like really stop an affine; for others a rule can
be added (docs/adding-a-rule.md).""",
        """
bn(torch.sigmoid(conv(x))) # sigmoid(s x + t) isn't an affine of sigmoid(x)
""",
    ),
    Why.FUSED: Page(
        """\
An exporter wrote a GELU, a LayerNorm or an RMSNorm as arithmetic. Runtimes know the pattern and compute it as one
operator. Its constants could go into a layer before or after it, but that takes the pattern apart: measured on ONNX
Runtime, the model gets slower. So its numbers stay, as those of the whole operators do.""",
        """
x * 0.5 * (1 + erf(x / 1.4142))    # the division could go into the layer that makes x
""",
    ),
    Why.KINK: Page(
        """\
relu(x + d) = relu(x) + d doesn't hold: the bend would move from 0 to -d. A positive scale passes a ReLU, a
shift does not. With --level max a ReLU whose input is shifted becomes a clip by channel, which bends elsewhere
in every channel; on ONNX Runtime that is slower than BatchNorm and ReLU, so it is meant for targets that have
no BatchNorm kernel.""",
        """
bn(relu(conv(x)))          # the shift of bn can't get back to conv
""",
    ),
    Why.ORDER: Page(
        """\
max(-a, -b) = -min(a, b): an operator that picks or compares numbers lets only positive scales pass. A channel
whose gamma is negative turns the order around. One such channel is enough to stop the whole BatchNorm.""",
        """
bn(maxpool(conv(x)))       # folds into conv where every gamma > 0
""",
    ),
    Why.PADDING: Page(
        """\
A convolution with zero padding reads zeros at the border. A BatchNorm before it shifts what is inside but not
these zeros, so that one bias can't stand for the shift everywhere: at the border some terms of the sum are
missing. A BatchNorm whose shift is 0 folds, and so does any BatchNorm before an unpadded convolution.""",
        """
conv = nn.Conv2d(8, 8, 3, padding=1)
conv(bn(relu(x)))          # bn(0) = t, but the padding stays 0
""",
    ),
    Why.TRANSPOSED: Page(
        """\
In a transposed convolution each output pixel is reached by another part of the kernel, and so by another part
of a shift of the input. A scale goes forward into its weight, a shift doesn't. Backward it folds like any
convolution.""",
        """
up = nn.ConvTranspose2d(8, 8, 4, stride=2)
up(bn(relu(x)))
""",
    ),
    Why.GATE: Page(
        """\
(u + d) * v = u * v + d * v: a shift of one factor would add a multiple of the other, which isn't constant.
Scales pass a product, shifts don't.""",
        """
gate = sigmoid(fc(pool(x)))
bn2(conv(x) * gate)        # squeeze and excitation: bn2's shift can't get back to conv
""",
    ),
    Why.SUM: Page(
        """\
a * (u + v) = a * u + a * v: what stands behind a sum can be taken out of it only if every operand takes the
same scale. Where one of them can't, as an input of the model or a branch that is read elsewhere, none can.
Shifts are freer: any one operand may take all of the shift.""",
        """
y = x + conv(x)            # x is an input of the model
bn(y)
""",
    ),
    Why.BROADCAST: Page(
        """\
The operand has one number where the other has C channels. It can't hold a scale or a shift that differs by
channel.""",
        """
attention = torch.sigmoid(conv1(x))      # (N, 1, H, W)
bn(conv2(x) + attention)                 # (N, C, H, W)
""",
    ),
    Why.AXIS: Page(
        """\
The layer mixes another axis than the one along which the affine's numbers lie, so that its weight has no row
for each of them. The sizes may agree by chance: other tools then fold along the wrong axis, without a message.""",
        """
fc = nn.Linear(20, 16)     # works on the last axis: (N, 16, 20) -> (N, 16, 16)
bn = nn.BatchNorm1d(16)    # works on axis 1
bn(fc(x))
""",
    ),
    Why.RESHAPE: Page(
        """\
After the reshape, one axis runs through channels and positions, or through a size that is known only when the
model runs: there is no axis along which the numbers lie any more.""",
        """
y = conv(x).reshape(n, -1, 7)            # 7 doesn't divide the positions of a channel
bn(y)
""",
    ),
    Why.BOUNDS: Page(
        """\
clip(a x + d, lo, hi) = a clip(x, (lo - d) / a, (hi - d) / a) + d: the bounds move with the channel, and the
operator has one number for all of them (ONNX's Clip, ReLU6, Hardtanh).""",
        """
bn(relu6(conv(x)))
""",
    ),
    Why.FILL: Page(
        """\
Padding with a constant v puts v - d over a between the frame's numbers, which is another number in every
channel. Where it is the same for all, as 0 under a scale, it folds.""",
        """
bn(F.pad(conv(x), (1, 1, 1, 1)))         # zeros beside what a shift would change
""",
    ),
    Why.SPREAD: Page(
        """\
An average that counts the zeros of the padding has less of a shift at the border than inside.""",
        """
bn(nn.AvgPool2d(3, 1, padding=1)(conv(x)))   # count_include_pad=True is the default
""",
    ),
    Why.LENGTH: Page(
        """\
The sum of n numbers that are shifted by d is shifted by n * d, and n is known only when the model runs.""",
        """
bn(conv(x).sum(dim=(2, 3)))              # exported with dynamic height and width
""",
    ),
    Why.RECURRENT: Page(
        """\
An LSTM, a GRU or an RNN reads its own output at the next step, behind sigmoid and tanh, so no weight of it can
scale or shift what comes out, nor the states that it starts from. A BatchNorm in front of it goes into its input
weights and biases; one behind it goes forward, into the next layer that takes a scale and a shift.""",
        """
y, _ = lstm(x)
bn(y.transpose(1, 2))      # backward: y is read again; forward: whatever comes next
""",
    ),
    Why.NARROWS: Page(
        """\
A cast from float32 to float16 rounds. The folded tensor holds other numbers, so that other ones are rounded,
and large ones may overflow; a cast to a wider type changes nothing and is passed.""",
        """
bn(conv(x).half())
""",
    ),
    Why.UNKNOWN_SHAPE: Page(
        """\
How many channels the tensor has isn't said in the file, so that it can't be told which numbers belong to which.""",
        """
y = Custom(x)              # shape inference knows nothing of its output
y = Mul(y, scale)
""",
    ),
}
