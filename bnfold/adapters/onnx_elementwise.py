"""Reading elementwise operators."""

from functools import partial

from bnfold import ops
from bnfold.adapters.onnx_view import Part, Reading, View, reads
from bnfold.why import Why

_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow"}
_UNARY = {"Neg": "neg", "Sqrt": "sqrt", "Reciprocal": "reciprocal"}


def _binary(kind: str, view: View) -> Reading:
    if len(view.node.inputs) != 2 or not all(view.node.inputs):
        return None
    return Part(ops.Binary(kind), limits=_held(view))


def _unary(kind: str, view: View) -> Reading:
    return Part(ops.Unary(kind), limits=_held(view))


for _name, _kind in _BINARY.items():
    reads(_name)(partial(_binary, _kind))


@reads("Max", "Min")
def _extreme(view: View) -> Reading:
    """With a constant it is a clip (`onnx_clips`); before opset 8 it doesn't broadcast bounds."""
    kind = view.node.proto.op_type.lower()
    if len(view.node.inputs) == 1:
        return ops.Identity()
    if not any(name in view.known for name in view.node.inputs):
        return ops.Extremum(kind)
    return _binary(kind, view) if view.opset >= 8 else None


for _name, _kind in _UNARY.items():
    reads(_name)(partial(_unary, _kind))


def _held(view: View) -> dict[str, Why]:
    if not view.held.intersection(view.node.inputs):
        return view.data_limits()
    return {"remove": Why.OVERRIDABLE, "constants": Why.OVERRIDABLE, **view.data_limits()}


@reads("Sum")
def _sum(view: View) -> Reading:
    """Of two it is an Add."""
    if len(view.node.inputs) == 1:
        return ops.Identity()
    if len(view.node.inputs) == 2:
        return Part(ops.Binary("add"), limits=_held(view))
    return Part(ops.Sum((1.0,) * len(view.node.inputs)), limits=view.data_limits())


@reads("Relu")
def _relu(view: View) -> Reading:
    return ops.Relu()


@reads("LeakyRelu")
def _leaky_relu(view: View) -> Reading:
    return ops.LeakyRelu(view.real("alpha", 0.01))


@reads("PRelu")
def _p_relu(view: View) -> Reading:
    held = {"constants": Why.OVERRIDABLE} if view.input(1) in view.held else {}
    return Part(ops.PRelu(), limits=held)


@reads("Abs")
def _abs(view: View) -> Reading:
    return ops.Abs()


@reads("Clip")
def _clip(view: View) -> Reading:
    """Bounds are attributes up to opset 10, operands from 11 on."""
    if view.opset < 11:
        bounds = [view.real(name, 0.0) if view.has(name) else None for name in ("min", "max")]
        return Part(ops.Clip(*bounds), view.node.inputs[:1])
    return _bounded(view, *(view.scalar(index) if view.input(index) else None for index in (1, 2)))


def _bounded(view: View, lo: float | None, hi: float | None) -> Reading:
    if (view.input(1) and lo is None) or (view.input(2) and hi is None):
        return None
    return Part(ops.Clip(lo, hi), view.node.inputs[:1])


@reads("Identity")
def _identity(view: View) -> Reading:
    return ops.Identity()


@reads("Dropout")
def _dropout(view: View) -> Reading:
    """The identity, but for a training mode that is true or computed; a mask that is asked for is another matter."""
    if any(view.node.outputs[1:]) or view.number("is_test", 1) == 0:
        return None
    if view.input(2):
        mode = view.constant(2)
        if mode is None or mode.name in view.held or bool(mode.array().reshape(-1)[0]):
            return None
    return Part(ops.Identity(), view.node.inputs[:1])


@reads("Cast")
def _cast(view: View) -> Reading:
    return ops.Cast()
