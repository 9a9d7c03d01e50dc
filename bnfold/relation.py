"""The relations between the frames of an operator's tensors, as data. bnfold/rules says which operator has which.

Every tensor T has a frame, T = scale * T' + shift per channel of one axis; the folded graph computes T'. A tie says
which frames go together; the rules keep this law, for every x' and every choice of frames that satisfies their ties:

    op(frame_x(x'), ...) == frame_y(op'(x', ...))        op' is op with the constants that the rule rewrites
"""

from typing import TypeAlias

from bnfold.graph import Constant, Dim, Graph, Node
from bnfold.record import record
from bnfold.views import View
from bnfold.why import Why


@record
class Pinned:
    """scale 1, shift 0 for each of `values`."""

    values: tuple[str, ...]
    why: Why


@record(eq=False)
class Carried:
    """Channels of `source` are channels of `target`: equal scales, and shift_target = times * shift_source.

    positive: why the scale must be > 0, if it must. still: why the shift must be 0, if it must.
    uniform: why all channels must have one scale and one shift, if they must.
    Where the view finds no image for the axis of the frame, both frames are the identity, for `lost`.
    """

    source: str
    target: str
    view: View
    positive: Why | None = None
    still: Why | None = None
    uniform: Why | None = None
    times: float = 1.0
    lost: Why = Why.RESHAPE


@record
class Summed:
    """target = sum of coefficient * term (elementwise, broadcast): equal scales, shift_y = sum coefficient * shift."""

    terms: tuple[tuple[str, float], ...]
    target: str


@record
class Multiplied:
    """target = product of the factors (elementwise, broadcast): scale_y = product of the scales, every shift 0."""

    factors: tuple[str, ...]
    target: str


@record
class Contracted:
    """target = W source + b: the frames along source_axis and target_axis are free, as far as W and b can be rewritten.

    The weight constant has the output channels on `out_axis` and the input channels on `in_axis`. With groups, the
    input axis of a Conv weight (out, in / groups), or the output axis of a transposed one (in, out / groups), is short.
    y = alpha * W x + beta * b. still: why the source's shift must be 0, if it must (zero padding).
    passes: the axes of source and target that are the same (batch, tokens): an equal scale passes there without a bias.
    """

    source: str
    target: str
    weight: str
    bias: str  # empty: none
    source_axis: int
    target_axis: int
    out_axis: int
    in_axis: int
    groups: int = 1
    alpha: float = 1.0
    beta: float = 1.0
    still: Why | None = None
    passes: tuple[tuple[int, int], ...] = ()


@record
class Absorbed:
    """The frame of `value` along `axis` is free, as far as the node's constants can be rewritten.

    For operators that are linear at some of their ends, each end by itself: a recurrent layer in what it reads.
    bias: the constant that is added to the value; empty where there is none, and for one that the node reads.
    still: why the shift must be 0, if it must.
    """

    value: str
    axis: int
    bias: str = ""
    still: Why | None = None


@record
class Mapped:
    """target = affine(source) along `axis`, with constants: what a fold removes."""

    source: str
    target: str
    axis: int


Tie: TypeAlias = Pinned | Carried | Summed | Multiplied | Contracted | Absorbed | Mapped


@record
class Site:
    """A node in its graph: all that a rule may ask about.

    relaxed: the solver asks for the wider relation, which costs something: a ReLU as a clip by channel (`tensors`: the
    target takes tensor bounds), a Clip or a constant Pad with other bounds.
    """

    node: Node
    graph: Graph
    relaxed: bool = False
    tensors: bool = False

    @property
    def x(self) -> str:
        """The first input."""
        return self.node.inputs[0]

    @property
    def y(self) -> str:
        """The first output."""
        return self.node.outputs[0]

    def input(self, index: int) -> str:
        """Give the name of an operand; empty where it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else ""

    def constant(self, index: int) -> Constant | None:
        """Give an operand that is known before the run; None where it is computed or absent."""
        return self.graph.constants.get(self.input(index))

    def shape(self, name: str) -> tuple[Dim, ...]:
        """Give the shape of a value whose rank is known (`relation` pins the others before any rule sees them)."""
        shape = self.graph.shape(name)
        assert shape is not None
        return shape

    @property
    def has_ranks(self) -> bool:
        """Whether the rank of every value that the node reads or computes is known."""
        for name in self.node.inputs + self.node.outputs:
            value = self.graph.values.get(name)
            if value is not None and value.shape is None:
                return False
        return True

    @property
    def tensors_of(self) -> tuple[str, ...]:
        """The values (not constants) that the node reads or computes, each once."""
        names = (name for name in self.node.inputs + self.node.outputs if name in self.graph.values)
        return tuple(dict.fromkeys(names))
