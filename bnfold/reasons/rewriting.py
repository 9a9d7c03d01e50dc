"""What of a model can't be rewritten, whatever the algebra says."""

from bnfold.reasons.page import Page
from bnfold.why import Why

REWRITING = {
    Why.COMPUTED: Page(
        """\
The weight isn't stored: the model computes it in every run, from its input or from other weights, and there is
nothing to multiply in advance. A weight that only depends on stored numbers can be baked into a plain one
first.""",
        """
weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)   # weight standardisation
bn(F.conv2d(x, weight))
""",
    ),
    Why.SHARED: Page(
        """\
Two layers use one stored weight. A fold that scales it for one of them would change the other.""",
        """
decoder.weight = encoder.weight          # tied
bn(encoder(x)); decoder(z)
""",
    ),
    Why.REPEATED: Page(
        """\
One module is called several times. It has one weight, so every call must want the same change; here they don't.""",
        """
bn(conv(x)) + conv(y)      # the second call has no BatchNorm behind it
""",
    ),
    Why.MALFORMED: Page(
        """\
The operator's specification says what each operand's shape is: a Conv's bias is one number for each output channel, its
weight has as many input channels as x, divided by the groups. Here something else stands in the file. A runtime
may take it all the same, but what it makes of it isn't written down anywhere, so nothing is folded into it.""",
        """
y = Conv(x, weight, bias)  # weight: 8x3x3x3, bias: 1x8x1x1; wanted 8
""",
    ),
    Why.HOOKED: Page(
        """\
A forward hook reads or changes what goes in or out of this module. After the fold it would see other numbers,
or never run at all where the module is gone.""",
        """
bn.register_forward_hook(lambda module, inputs, output: output * 2)
""",
    ),
    Why.OVERWRITTEN: Page(
        """\
A BatchNorm gives a tensor of its own. Once it is gone its output is its input, and what is updated in place behind
it (relu_, +=) would change that under whoever else reads it. An nn.ReLU(inplace=True) is told to copy instead.""",
        """
y = bn(x)
F.relu_(y)
return y + conv(x)         # without the BatchNorm, x would be changed too
""",
    ),
    Why.PARAMETRIZED: Page(
        """\
The weight is made from other parameters (weight_norm, spectral_norm, pruning) and would be made anew over
whatever the fold writes. --bake makes plain weights of them.""",
        """
conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
bn(conv(x))
""",
    ),
    Why.NO_BIAS: Page(
        """\
The shift needs a bias, and the layer can't be given one: its class has none, or its operator takes none.""",
        """
class Projection(nn.Module):
    def forward(self, x):
        return F.linear(x, self.weight)  # a bias attribute would never be read
""",
    ),
    Why.CODE: Page(
        """\
The affine is arithmetic in the middle of a forward, not a module that could be replaced. The class and its code
stay as they are, so a module can't lose it; a graph can.""",
        """
def forward(self, x):
    x = self.conv(x)
    return x * self.gamma + self.beta    # bnfold fold model.pt -o model.folded.pt2
""",
    ),
    Why.OVERRIDABLE: Page(
        """\
In this ONNX file the weight is listed among the graph's inputs too: a caller may pass another one, to which the
fold would not apply. Old exporters list every weight so, and nobody overrides them.""",
        """
graph (float[1,3,8,8] x, float[8,3,3,3] weight) => (float[1,8,6,6] y)
<float[8,3,3,3] weight = {...}>
""",
    ),
    Why.QUANTIZED: Page(
        """\
The weight is stored in integers with a scale. A factor by output channel can go into the scales where there is
one for each channel; anything else would round the integers again.""",
        """
w = DequantizeLinear(w_int8, scale)      # one scale for all channels
y = BatchNormalization(Conv(x, w), ...)
""",
    ),
    Why.SUBCLASS: Page(
        """\
The module is of a class with a forward of its own, which does more with the weight, or after it, than the class
that it derives from.""",
        """
class StdConv2d(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, standardised(self.weight))
""",
    ),
    Why.EXPOSED: Page(
        """\
The constant is an output of the model too, and the fold would change what the caller gets.""",
        """
return bn(conv(x)), conv.weight
""",
    ),
}
