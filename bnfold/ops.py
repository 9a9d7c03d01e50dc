"""One record an operator: its attributes. Its operands are the inputs of the node that holds it.

x and y stand for the first input and the output; `name?` for an input that may be absent (an empty name).
N is the batch, C the channels, S the spatial axes. An axis is never negative.
"""

from typing import TypeAlias

from bnfold.record import record

Pads: TypeAlias = tuple[tuple[int, int], ...]  # (before, after), one pair an axis


@record
class Op:
    """An operator."""


@record
class Unknown(Op):
    """An operator that no rule covers; its tensors are left as they are."""

    kind: str


@record
class ShapeOf(Op):
    """Reads the shape of x and none of its numbers."""


@record
class Parameter(Op):
    """y is the constant that is its input: numbers that are data and no weight, as a position embedding or a token.

    `raising` puts one before what reads such a constant.
    """


# Linear operators: y = W x + b.


@record
class Conv(Op):
    """Inputs x (N, in, *S), weight (out, in / groups, *kernel), bias? (out). `pads` is None where unknown (SAME)."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads | None
    groups: int = 1
    pad_mode: str = "zeros"  # or reflect, replicate, circular


@record
class ConvTranspose(Op):
    """Inputs x (N, in, *S), weight (in, out / groups, *kernel), bias? (out)."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads | None
    output_padding: tuple[int, ...]
    groups: int = 1


@record
class Linear(Op):
    """Inputs x (..., in), weight (out, in), bias? (out)."""


@record
class Gemm(Op):
    """alpha * A B + beta * C; inputs A, B, C?; A and B transposed first where told; one of them is constant."""

    alpha: float = 1.0
    beta: float = 1.0
    trans_a: bool = False
    trans_b: bool = False


@record
class MatMul(Op):
    """numpy.matmul of the first two inputs, plus bias?; linear where one of the two is a constant.

    bias: (out,) where the right side is the constant, (out, 1) where the left one is; `raising` makes it of an Add.
    """


@record
class Einsum(Op):
    """numpy.einsum(equation, two inputs), plus bias?; linear where one of the two is a constant.

    bias is broadcast against the output, as MatMul's.
    """

    equation: str


# Operators that are linear at some of their ends only.


@record
class Recurrent(Op):
    """An LSTM, a GRU or a plain RNN over x (..., in): what a step reads of x is W x + b, and nothing else.

    parts: which operands a weight, (*D, gates, in), and its bias?, (*D, gates or more), are. b is the first `gates`
    numbers of the bias, before those of the recurrent weight, which is the operand behind the weight. A layer that runs
    both ways has two parts, or D = (2,). The other operands are states, lengths and the layers above.
    """

    kind: str
    parts: tuple[tuple[int, int], ...]


@record
class Bilinear(Op):
    """y[..., o] = sum over i, j of x1[..., i] * weight[o, i, j] * x2[..., j], plus bias?[o].

    Inputs x1 (..., in1), weight (out, in1, in2), bias? (out), x2 (..., in2).
    """


# Per-channel affines.


@record
class BatchNorm(Op):
    """Eval-mode BatchNorm on axis 1 with inputs x (N, C, *S), gamma?, beta?, running_mean, running_var, each (C,)."""

    eps: float


@record
class Affine(Op):
    """y = scale * x + shift along `axis`; inputs x, scale (C,), shift (C,), both constant."""

    axis: int


# Elementwise operators.


@record
class Binary(Op):
    """kind(left, right), NumPy's broadcasting, as an adapter reads it; `alpha` multiplies the right side (torch.add).

    `raising` turns every Binary into an Affine, a constant, a Sum, a Product or an Unknown.
    """

    kind: str  # add, sub, mul, div, pow, max, min
    alpha: float = 1.0


@record
class Unary(Op):
    """kind(x) elementwise, as an adapter reads it: neg, sqrt, rsqrt, reciprocal, square."""

    kind: str


@record
class Sum(Op):
    """The sum of coefficient * input over the inputs, with broadcasting; none of them a constant."""

    coefficients: tuple[float, ...]


@record
class Product(Op):
    """The product of the inputs, with broadcasting; none of them a constant."""


@record
class Extremum(Op):
    """The largest (kind "max") or smallest ("min") of the inputs by element, with broadcasting; none a constant."""

    kind: str


@record
class Relu(Op):
    """max(x, 0)."""


@record
class LeakyRelu(Op):
    """x where x > 0, else slope * x."""

    slope: float


@record
class PRelu(Op):
    """x where x > 0, else slope * x; inputs x, slope (constant; any broadcastable shape)."""


@record
class Abs(Op):
    """|x|."""


@record
class Clip(Op):
    """min(max(x, lo), hi); None is no bound. ReLU6 and Hardtanh are clips."""

    lo: float | None
    hi: float | None


@record
class ChannelClip(Op):
    """min(max(x, lo), hi) along `axis`; inputs x, lo (C,), hi (C,), constant; infinite is no bound."""

    axis: int


@record
class Identity(Op):
    """y = x: Identity, eval-mode Dropout, contiguous, clone, a detach."""


@record
class Cast(Op):
    """Changes the dtype from x's to y's."""


# Pooling and resampling over the axes other than the channels'.


@record
class MaxPool(Op):
    """The greatest of each window over the spatial axes (2 and on); padding is -inf. A second output holds indices."""


@record
class AvgPool(Op):
    """The mean of each window over axes 2 and on. `counts_padding`: zeros count in, or the divisor is given."""

    counts_padding: bool


@record
class Reduce(Op):
    """kind over `axes`: mean, sum, max or min; global pooling is one."""

    kind: str
    axes: tuple[int, ...]
    keepdims: bool


@record
class Resize(Op):
    """Interpolates along `moved` and where the shapes of x and y differ.

    `affine`: its weights add up to 1, no extrapolation.
    """

    affine: bool
    moved: tuple[int, ...] = ()


@record
class Pad(Op):
    """Pads every axis by `pads`; mode constant (with `value`), reflect, replicate or circular."""

    pads: Pads
    mode: str = "constant"
    value: float = 0.0


# Layout.


@record
class Transpose(Op):
    """numpy.transpose(x, permutation)."""

    permutation: tuple[int, ...]


@record
class Reshape(Op):
    """The same elements in row-major order in y's shape: reshape, flatten, squeeze, unsqueeze."""


@record
class Rearrange(Op):
    """Reshapes and transpositions one after another, as in a channel shuffle; `raising` joins them.

    steps: ("reshape", shape), where a symbol stands for what x has there, or ("transpose", permutation).
    """

    steps: tuple[tuple[str, tuple[int | str | None, ...]], ...]


@record
class Expand(Op):
    """numpy.broadcast_to(x, y's shape)."""


@record
class Take(Op):
    """numpy.take(x, indices, axis), the axis kept: a slice, a gather by constants, a roll."""

    axis: int
    indices: tuple[int, ...]


@record
class Select(Op):
    """numpy.take(x, index, axis), the axis dropped."""

    axis: int
    index: int


@record
class Lookup(Op):
    """The rows of a table, x (V, *S), that computed indices name: y (*indices, *S). An embedding."""


@record
class Split(Op):
    """Cuts `axis` into one output for each of `sizes`; drop: all of them are 1, and the axis is gone (unbind)."""

    axis: int
    sizes: tuple[int, ...]
    drop: bool = False


@record
class Flip(Op):
    """numpy.flip(x, axes)."""

    axes: tuple[int, ...]


@record
class Tile(Op):
    """numpy.tile(x, repeats); there are at least as many repeats as axes, and the axes are the last ones."""

    repeats: tuple[int, ...]


@record
class DepthToSpace(Op):
    """Channels to pixels, on (N, C, H, W): mode CRD is torch's PixelShuffle and ONNX's CRD, DCR is ONNX's default."""

    block: int
    mode: str = "CRD"


@record
class SpaceToDepth(Op):
    """Pixels to channels, on (N, C, H, W): mode CRD undoes torch's PixelShuffle, DCR is ONNX's SpaceToDepth."""

    block: int
    mode: str = "DCR"


@record
class Concat(Op):
    """Joins the inputs along `axis`."""

    axis: int


@record
class Stack(Op):
    """Joins the inputs along a new axis."""

    axis: int
