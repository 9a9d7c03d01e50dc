"""What an ONNX file knows before the run: initializers, Constant nodes, and short chains of layout operators on them.

A chain is evaluated only when its numbers are asked for, and never where the result could be larger than what the
file holds: a file of 167 bytes can ask for 11 GB.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from bnfold.adapters.onnx_evaluators import ARITHMETIC, EVALUATORS, LIMIT, Array, Call
from bnfold.adapters.onnx_protos import TensorProto
from bnfold.adapters.onnx_scopes import FileNode
from bnfold.adapters.onnx_tensors import CODES, Tensor
from bnfold.affine import Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Constant
from bnfold.record import record

EVALUATED = frozenset(EVALUATORS) | {"Shape", "Constant"}
_MISFITS = (ValueError, TypeError, IndexError, OverflowError)  # what NumPy raises for operands that don't fit
_STEPS = 1024  # evaluations that a tensor may take: one that is read twice at each of 60 steps takes 2 ** 60
_FEW = 4096  # elements that may be evaluated to learn a shape, or kept in memory


@record(eq=False)
class Known:
    """A tensor that is known before the run; `array` gives it as it is stored.

    tensor: its place in the file, where it has one. node: what makes it, where a node does. steps: how many nodes are
    evaluated for it, each as often as it is read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    array: Callable[[], Array]
    tensor: Tensor | None = None
    node: FileNode | None = None
    steps: int = 0

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def is_quantized(self) -> bool:
        """Whether a DequantizeLinear makes it."""
        return self.node is not None and self.node.kind == "DequantizeLinear"

    def constant(self) -> Constant:
        """Give it as the Graph has it; a small one is read once, for statistics are asked for by many."""
        load = _Shared(self) if self.size <= _FEW else self.load
        return Constant(self.name, self.shape, self.dtype, load, self._rows if self.tensor is not None else None)

    def _rows(self, start: int, stop: int) -> Floats:
        """Read a stretch of axis 0 from the file."""
        assert self.tensor is not None
        row = math.prod(self.shape[1:])
        numbers = _float64(self.tensor.stored(start * row, (stop - start) * row))
        return numbers.reshape(stop - start, *self.shape[1:])

    def load(self) -> Floats:
        """Give it in float64."""
        return _float64(self.array())


def _float64(numbers: Array) -> Floats:
    with np.errstate(invalid="ignore"):  # a signalling NaN is read as one that isn't
        return numbers.astype(np.float64)


class _Shared:
    """Loads a tensor once: all who ask share one array (`functools.cache` takes longer than reading the file does)."""

    __slots__ = ("known", "numbers")

    def __init__(self, known: Known) -> None:
        self.known = known
        self.numbers: Floats | None = None

    def __call__(self) -> Floats:
        if self.numbers is None:
            self.numbers = self.known.load()
            self.numbers.flags.writeable = False
        return self.numbers


@record
class Dequantized:
    """A constant that a DequantizeLinear makes, its axes perhaps in another order.

    node: that DequantizeLinear. axes: which of its output's axes each axis is. names: the constants from there on.
    """

    node: FileNode
    axes: tuple[int, ...]
    names: tuple[str, ...]


def dequantized(item: Known, known: Mapping[str, Known]) -> Dequantized | None:
    """Follow a constant back over Identity and Transpose; None where that leads to no DequantizeLinear."""
    axes, names = tuple(range(len(item.shape))), [item.name]
    while item.node is not None and item.node.kind in ("Identity", "Transpose"):
        if item.node.kind == "Transpose":
            found = item.node.attribute("perm")
            order = tuple(reversed(range(len(axes)))) if found is None else tuple(found.ints)
            axes = tuple(order[axis] for axis in axes)
        item = known[item.node.inputs[0]]
        names.append(item.name)
    return Dequantized(item.node, axes, tuple(names)) if item.node is not None and item.is_quantized else None


def stored(name: str, tensor: Tensor, node: FileNode | None = None) -> Known:
    """A tensor of the file."""
    return Known(name, tensor.shape, tensor.dtype, lambda: tensor.stored().reshape(tensor.shape), tensor, node)


def literal(name: str, array: Array, node: FileNode) -> Known:
    """A tensor that a node's attributes hold."""
    return Known(name, array.shape, array.dtype.name, lambda: array, None, node)


def evaluated(
    node: FileNode, inputs: list[Known | None], shape: tuple[int, ...] | None, dtype: str, opset: int
) -> Known | None:
    """Give the output of a node whose inputs are known, to be computed when it is asked for; None where it can't be.

    shape: what shape inference says of it; where that is nothing, a small chain is computed at once.
    """
    evaluate = EVALUATORS.get(node.kind)
    operands = [item for item in inputs if item is not None]
    largest = max((item.size for item in operands), default=0)
    if evaluate is None or not operands or any(item.dtype in ("str", "unknown") for item in operands):
        return None
    steps = 1 + sum(item.steps for item in operands)
    if steps > _STEPS or not _can_be(node, operands):
        return None

    def compute() -> Array:
        arrays = [None if item is None else item.array() for item in inputs]
        with np.errstate(all="ignore"):  # whoever takes the numbers asks whether they are finite
            return np.asarray(evaluate(Call(node, arrays, dtype, opset)))  # of arrays without axes NumPy makes scalars

    def compute_late() -> Array:
        try:
            result = compute()
        except _MISFITS as error:
            raise BnfoldError(f"{node.name}: can't be computed from its constants ({error})") from error
        if result.shape != shape:
            raise BnfoldError(f"{node.name}: its constants give the shape {result.shape}; wanted {shape}")
        return result

    if shape is not None and dtype in CODES:
        within = math.prod(shape) <= max(LIMIT, largest)
        return Known(node.outputs[0], shape, dtype, compute_late, None, node, steps) if within else None
    if largest > _FEW:
        return None
    try:
        result = compute()
    except _MISFITS:
        return None
    return Known(node.outputs[0], result.shape, result.dtype.name, lambda: result, None, node)


def _can_be(node: FileNode, operands: list[Known]) -> bool:
    """Whether the evaluator covers this use: of arithmetic, that on sizes (`bnfold.raising` sees that on floats)."""
    if node.kind in ARITHMETIC:
        return len(operands) == 2 and all(item.dtype in ("int32", "int64") for item in operands)
    filled = node.attribute("value") if node.kind == "ConstantOfShape" else None
    if filled is not None and filled.t.data_location == TensorProto.EXTERNAL:
        return False
    blocks = node.attribute("block_size")
    return blocks is None or blocks.i == 0
