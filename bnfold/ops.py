"""One frozen dataclass an operator: its attributes. Its operands are the inputs of the node that holds it.

x and y stand for the first input and the output; `name?` for an input that may be absent (an empty name).
N is the batch, C the channels, S the spatial axes. An axis is never negative.
"""

from dataclasses import dataclass
from typing import TypeAlias

Pads: TypeAlias = tuple[tuple[int, int], ...]  # (before, after), one pair an axis


@dataclass(frozen=True, slots=True)
class Op:
    """An operator."""


@dataclass(frozen=True, slots=True)
class Unknown(Op):
    """An operator that no rule covers; its tensors are left as they are."""

    kind: str


@dataclass(frozen=True, slots=True)
class ShapeOf(Op):
    """Reads the shape of x and none of its numbers."""


@dataclass(frozen=True, slots=True)
class Parameter(Op):
    """y is the constant that is its input: numbers that are data and no weight, as a position embedding or a token.

    `raising` puts one before what reads such a constant.
    """


# Linear operators: y = W x + b.


@dataclass(frozen=True, slots=True)
class Conv(Op):
    """Inputs x (N, in, *S), weight (out, in / groups, *kernel), bias? (out). `pads` is None where unknown (SAME)."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads | None
    groups: int = 1
    pad_mode: str = "zeros"  # or reflect, replicate, circular


@dataclass(frozen=True, slots=True)
class ConvTranspose(Op):
    """Inputs x (N, in, *S), weight (in, out / groups, *kernel), bias? (out)."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads | None
    output_padding: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """Inputs x (..., in), weight (out, in), bias? (out)."""


@dataclass(frozen=True, slots=True)
class Gemm(Op):
    """alpha * A B + beta * C; inputs A, B, C?; A and B transposed first where told; one of them is constant."""

    alpha: float = 1.0
    beta: float = 1.0
    trans_a: bool = False
    trans_b: bool = False


@dataclass(frozen=True, slots=True)
class MatMul(Op):
    """numpy.matmul of the first two inputs, plus bias?; linear where one of the two is a constant.

    bias: (out,) where the right side is the constant, (out, 1) where the left one is; `raising` makes it of an Add.
    """


@dataclass(frozen=True, slots=True)
class Einsum(Op):
    """numpy.einsum(equation, two inputs), plus bias?; linear where one of the two is a constant.

    bias is broadcast against the output, as MatMul's.
    """

    equation: str


# Per-channel affines.


@dataclass(frozen=True, slots=True)
class BatchNorm(Op):
    """Eval-mode BatchNorm on axis 1 with inputs x (N, C, *S), gamma?, beta?, running_mean, running_var, each (C,)."""

    eps: float


@dataclass(frozen=True, slots=True)
class Affine(Op):
    """y = scale * x + shift along `axis`; inputs x, scale (C,), shift (C,), both constant."""

    axis: int


# Elementwise operators.


@dataclass(frozen=True, slots=True)
class Binary(Op):
    """kind(left, right), NumPy's broadcasting, as an adapter reads it; `alpha` multiplies the right side (torch.add).

    `raising` turns every Binary into an Affine, a constant, a Sum, a Product or an Unknown.
    """

    kind: str  # add, sub, mul, div, pow, max, min
    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Unary(Op):
    """kind(x) elementwise, as an adapter reads it: neg, sqrt, rsqrt, reciprocal, square."""

    kind: str


@dataclass(frozen=True, slots=True)
class Sum(Op):
    """The sum of coefficient * input over the inputs, with broadcasting; none of them a constant."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Product(Op):
    """The product of the inputs, with broadcasting; none of them a constant."""


@dataclass(frozen=True, slots=True)
class Extremum(Op):
    """The largest (kind "max") or smallest ("min") of the inputs by element, with broadcasting; none a constant."""

    kind: str


@dataclass(frozen=True, slots=True)
class Relu(Op):
    """max(x, 0)."""


@dataclass(frozen=True, slots=True)
class LeakyRelu(Op):
    """x where x > 0, else slope * x."""

    slope: float


@dataclass(frozen=True, slots=True)
class PRelu(Op):
    """x where x > 0, else slope * x; inputs x, slope (constant; any broadcastable shape)."""


@dataclass(frozen=True, slots=True)
class Abs(Op):
    """|x|."""


@dataclass(frozen=True, slots=True)
class Clip(Op):
    """min(max(x, lo), hi); None is no bound. ReLU6 and Hardtanh are clips."""

    lo: float | None
    hi: float | None


@dataclass(frozen=True, slots=True)
class ChannelClip(Op):
    """min(max(x, lo), hi) along `axis`; inputs x, lo (C,), hi (C,), constant; infinite is no bound."""

    axis: int


@dataclass(frozen=True, slots=True)
class Identity(Op):
    """y = x: Identity, eval-mode Dropout, contiguous, clone, a detach."""


@dataclass(frozen=True, slots=True)
class Cast(Op):
    """Changes the dtype from x's to y's."""


# Pooling and resampling over the axes other than the channels'.


@dataclass(frozen=True, slots=True)
class MaxPool(Op):
    """The greatest of each window over the spatial axes (2 and on); padding is -inf. A second output holds indices."""


@dataclass(frozen=True, slots=True)
class AvgPool(Op):
    """The mean of each window over axes 2 and on. `counts_padding`: zeros count in, or the divisor is given."""

    counts_padding: bool


@dataclass(frozen=True, slots=True)
class Reduce(Op):
    """kind over `axes`: mean, sum, max or min; global pooling is one."""

    kind: str
    axes: tuple[int, ...]
    keepdims: bool


@dataclass(frozen=True, slots=True)
class Resize(Op):
    """Interpolates along `moved` and where the shapes of x and y differ.

    `affine`: its weights add up to 1, no extrapolation.
    """

    affine: bool
    moved: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pad(Op):
    """Pads every axis by `pads`; mode constant (with `value`), reflect, replicate or circular."""

    pads: Pads
    mode: str = "constant"
    value: float = 0.0


# Layout.


@dataclass(frozen=True, slots=True)
class Transpose(Op):
    """numpy.transpose(x, permutation)."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reshape(Op):
    """The same elements in row-major order in y's shape: reshape, flatten, squeeze, unsqueeze."""


@dataclass(frozen=True, slots=True)
class Rearrange(Op):
    """Reshapes and transpositions one after another, as in a channel shuffle; `raising` joins them.

    steps: ("reshape", shape), where a symbol stands for what x has there, or ("transpose", permutation).
    """

    steps: tuple[tuple[str, tuple[int | str | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Expand(Op):
    """numpy.broadcast_to(x, y's shape)."""


@dataclass(frozen=True, slots=True)
class Take(Op):
    """numpy.take(x, indices, axis), the axis kept: a slice, a gather by constants, a roll."""

    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Select(Op):
    """numpy.take(x, index, axis), the axis dropped."""

    axis: int
    index: int


@dataclass(frozen=True, slots=True)
class Lookup(Op):
    """The rows of a table, x (V, *S), that computed indices name: y (*indices, *S). An embedding."""


@dataclass(frozen=True, slots=True)
class Split(Op):
    """Cuts `axis` into one output for each of `sizes`; drop: all of them are 1, and the axis is gone (unbind)."""

    axis: int
    sizes: tuple[int, ...]
    drop: bool = False


@dataclass(frozen=True, slots=True)
class Flip(Op):
    """numpy.flip(x, axes)."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tile(Op):
    """numpy.tile(x, repeats); there are at least as many repeats as axes, and the axes are the last ones."""

    repeats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DepthToSpace(Op):
    """Channels to pixels, on (N, C, H, W): mode CRD is torch's PixelShuffle and ONNX's CRD, DCR is ONNX's default."""

    block: int
    mode: str = "CRD"


@dataclass(frozen=True, slots=True)
class SpaceToDepth(Op):
    """Pixels to channels, on (N, C, H, W): mode CRD undoes torch's PixelShuffle, DCR is ONNX's SpaceToDepth."""

    block: int
    mode: str = "DCR"


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """Joins the inputs along `axis`."""

    axis: int


@dataclass(frozen=True, slots=True)
class Stack(Op):
    """Joins the inputs along a new axis."""

    axis: int
