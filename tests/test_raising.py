"""Raising: the raised graph is the same function as the arithmetic, which a slow evaluator of our own computes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bnfold import ops
from bnfold.graph import Constant, Graph, Node, Value
from bnfold.raising import raised
from bnfold.why import Why

RANDOM = np.random.default_rng(7)
MEAN, VAR = RANDOM.normal(size=3), np.array([0.5, 2.0, 1e-3])
GAMMA, BETA = np.array([1.5, -0.7, 0.0]), np.array([0.1, -2.0, 3.0])
COLUMN, ROW = (3, 1, 1), (1, 3, 1, 1)
Shape = tuple[Any, ...]


class Builder:
    """A graph under construction on x (2, 3, 4, 4), or any other shape."""

    def __init__(self, shape: Shape = (2, 3, 4, 4), dtype: str = "float32") -> None:
        self.nodes: list[Node] = []
        self.dtype = dtype
        self.values = {"x": Value("x", shape, dtype)}
        self.constants: dict[str, Constant] = {}

    def constant(self, numbers: Any, dtype: str | None = None) -> str:
        array = np.asarray(numbers, np.float64)
        name = f"c{len(self.constants)}"
        self.constants[name] = Constant(name, array.shape, dtype or self.dtype, lambda: array)
        return name

    def node(self, op: ops.Op, *inputs: str, shape: Shape | None = None, name: str = "", **more: Any) -> str:
        y = f"v{len(self.nodes)}"
        found = shape or _shape(self, op, inputs)
        self.values[y] = Value(y, found, self.dtype)
        self.nodes.append(Node(name or f"n{len(self.nodes)}", op, inputs, (y,), **more))
        return y

    def binary(self, kind: str, left: str, right: str, alpha: float = 1.0, **more: Any) -> str:
        return self.node(ops.Binary(kind, alpha), left, right, **more)

    def graph(self, *outputs: str) -> Graph:
        return Graph(("x",), outputs, tuple(self.nodes), self.values, self.constants)


def _shape(b: Builder, op: ops.Op, inputs: Sequence[str]) -> Shape:
    shapes = [b.values[name].shape if name in b.values else b.constants[name].shape for name in inputs]
    longest = max((shape for shape in shapes if shape is not None), key=len)
    return longest if len(inputs) == 1 else np.broadcast_shapes(*shapes)  # type: ignore[arg-type]


BINARY: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
}
UNARY: dict[str, Callable[..., Any]] = {
    "neg": lambda a: -a,
    "sqrt": lambda a: a**0.5,
    "rsqrt": lambda a: a**-0.5,
    "reciprocal": lambda a: a**-1.0,
    "square": lambda a: a * a,
}


def run(graph: Graph, x: Any) -> list[Any]:
    """Evaluate node by node in float64."""
    env = {name: constant.load() for name, constant in graph.constants.items()} | {"x": x}
    for node in graph.nodes:
        args = [env[name] for name in node.inputs if name]
        if isinstance(node.op, ops.Split):
            parts = np.split(args[0], np.cumsum(node.op.sizes)[:-1], node.op.axis)
            env |= dict(zip(node.outputs, parts, strict=True))
        elif isinstance(node.op, ops.Reshape | ops.Expand):
            shape: Any = graph.values[node.output].shape
            env[node.output] = (np.reshape if isinstance(node.op, ops.Reshape) else np.broadcast_to)(args[0], shape)
        else:
            env[node.output] = _apply(node.op, args)
    return [env[name] for name in graph.outputs]


def _apply(op: ops.Op, args: list[Any]) -> Any:
    match op:
        case ops.Binary(kind, alpha):
            return BINARY[kind](args[0], alpha * args[1])
        case ops.Unary(kind):
            return UNARY[kind](args[0])
        case ops.Unknown(kind):
            return BINARY[kind](*args) if kind in BINARY else UNARY[kind](*args)
        case ops.Affine(axis):
            place = [1] * args[0].ndim
            place[axis] = -1
            return args[0] * args[1].reshape(place) + args[2].reshape(place)
        case ops.Sum(coefficients):
            return sum(c * a for c, a in zip(coefficients, args, strict=True))
        case ops.Product():
            return args[0] * args[1]
        case ops.Parameter():
            return args[0]
        case ops.MatMul():
            return args[0] @ args[1] + (args[2] if len(args) > 2 else 0)
        case ops.Einsum(equation):
            return np.einsum(equation, *args[:2]) + (args[2] if len(args) > 2 else 0)
        case ops.Linear():
            return args[0] @ args[1].T + (args[2] if len(args) > 2 else 0)
        case ops.Relu():
            return np.maximum(args[0], 0)
        case ops.Cast() | ops.Identity():
            return args[0]
        case ops.Transpose(permutation):
            return args[0].transpose(permutation)
        case ops.Concat(axis):
            return np.concatenate(args, axis)
        case ops.Take(axis, indices):
            return np.stack([args[0].take(k, axis) for k in indices], axis)
        case ops.Select(axis, index):
            return args[0].take(index, axis)
        case ops.Reduce("mean", axes, keepdims):
            return args[0].mean(axes, keepdims=keepdims)
    raise NotImplementedError(op)


def check(graph: Graph) -> Graph:
    """Raise, and compare with the arithmetic on two inputs."""
    result = raised(graph)
    shape = [2 if not isinstance(dim, int) else dim for dim in graph.values["x"].shape or ()]
    for seed in (1, 2):
        x = np.random.default_rng(seed).normal(size=shape) + 3
        for got, wanted in zip(run(result, x), run(graph, x), strict=True):
            assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
    return result


def kinds(graph: Graph) -> list[str]:
    return [node.op.kind if isinstance(node.op, ops.Unknown) else type(node.op).__name__ for node in graph.nodes]


# Hand-written BatchNorm, in many forms: each is one affine on axis 1.


def textbook(b: Builder) -> str:
    mean, var, gamma, beta = (b.constant(c.reshape(ROW)) for c in (MEAN, VAR, GAMMA, BETA))
    deviation = b.node(ops.Unary("sqrt"), b.binary("add", var, b.constant(1e-5)))
    hat = b.binary("div", b.binary("sub", "x", mean), deviation)
    return b.binary("add", b.binary("mul", gamma, hat), beta)


def rsqrt_first(b: Builder) -> str:
    mean, var, gamma, beta = (b.constant(c.reshape(COLUMN)) for c in (MEAN, VAR, GAMMA, BETA))
    inverse = b.node(ops.Unary("rsqrt"), b.binary("add", var, b.constant(1e-5)))
    scale = b.binary("mul", inverse, gamma)
    shift = b.binary("sub", beta, b.binary("mul", mean, scale))
    return b.binary("add", b.binary("mul", "x", scale), shift)


def pow_half(b: Builder) -> str:
    mean, var = (b.constant(c.reshape(COLUMN)) for c in (MEAN, VAR))
    deviation = b.binary("pow", b.binary("add", var, b.constant(1e-5)), b.constant(0.5))
    return b.binary("div", b.binary("sub", "x", mean), deviation)


def one_over_root(b: Builder) -> str:
    root = b.node(ops.Unary("sqrt"), b.constant(VAR.reshape(COLUMN)))
    return b.binary("mul", b.binary("sub", "x", b.constant(0.45)), b.node(ops.Unary("reciprocal"), root))


def backwards(b: Builder) -> str:
    return b.binary("mul", b.binary("sub", b.constant(MEAN.reshape(COLUMN)), "x"), b.constant(-GAMMA.reshape(ROW)))


def negated(b: Builder) -> str:
    return b.node(ops.Unary("neg"), b.binary("sub", b.constant(MEAN.reshape(COLUMN)), "x"))


def alphas(b: Builder) -> str:
    first = b.binary("add", "x", b.constant(MEAN.reshape(COLUMN)), alpha=2.0)
    second = b.binary("sub", first, b.constant(BETA.reshape(COLUMN)), alpha=0.5)
    return b.binary("add", b.constant(GAMMA.reshape(COLUMN)), second, alpha=-3.0)


def expanded(b: Builder) -> str:
    shift = b.node(ops.Expand(), b.constant(BETA.reshape(COLUMN)), shape=(3, 4, 4))
    return b.binary("mul", b.binary("add", "x", shift), b.constant(2.5))


def reshaped(b: Builder) -> str:
    gamma = b.node(ops.Reshape(), b.constant(GAMMA), shape=ROW)
    return b.binary("mul", "x", b.node(ops.Cast(), gamma))


def chain_of_two(b: Builder) -> str:
    first = textbook(b)
    second = b.binary("sub", first, b.constant(MEAN.reshape(COLUMN)))
    return b.binary("div", second, b.constant(4.0))


ONE_AFFINE = [
    textbook,
    rsqrt_first,
    pow_half,
    one_over_root,
    backwards,
    negated,
    alphas,
    expanded,
    reshaped,
    chain_of_two,
]


@pytest.mark.parametrize("form", ONE_AFFINE, ids=lambda form: form.__name__)
def test_every_form_of_a_batch_norm_is_one_affine(form: Callable[[Builder], str]) -> None:
    b = Builder()
    graph = b.graph(form(b))
    result = check(graph)
    assert [node.op for node in result.nodes] == [ops.Affine(1)]
    (node,) = result.nodes
    assert node.inputs[0] == "x"
    assert node.output == graph.outputs[0]
    on_the_way = [n.name for n in graph.nodes if n.output not in result.constants]
    assert list(node.sources or (node.name,)) == on_the_way


@pytest.mark.parametrize(
    ("shape", "constant", "axis"),
    [
        pytest.param((2, 3, 4, 4), np.arange(4.0), 3, id="the last axis"),
        pytest.param((2, 3, 4, 4), np.arange(2.0).reshape(2, 1, 1, 1), 0, id="the batch"),
        pytest.param((2, 3, 4, 4), np.array(2.0), 1, id="a number, on four axes"),
        pytest.param((2, 3), np.array([[[2.0]]]).reshape(1, 1), 1, id="a number, on two axes"),
        pytest.param(("N", "H", 5), np.array(2.0), 2, id="a number, where only the last axis is known"),
        pytest.param((5,), np.arange(5.0), 0, id="one axis"),
        pytest.param((2, 3, 1, 1), np.arange(3.0).reshape(3, 1, 1), 1, id="axes of length one"),
    ],
)
def test_the_axis_is_that_of_the_constant(shape: Shape, constant: Any, axis: int) -> None:
    b = Builder(shape)
    y = b.node(ops.Binary("add"), "x", b.constant(constant), shape=shape)
    assert [node.op for node in check(b.graph(y)).nodes] == [ops.Affine(axis)]


def test_a_number_follows_the_layer_that_makes_the_channels() -> None:
    b = Builder((2, 4, 3))
    y = b.node(ops.MatMul(), "x", b.constant(RANDOM.normal(size=(3, 5))), shape=(2, 4, 5))
    z = b.binary("mul", b.node(ops.Relu(), y), b.constant(0.5))
    assert check(b.graph(z)).nodes[-1].op == ops.Affine(2)


def test_a_number_follows_the_layer_that_reads_the_channels() -> None:
    b = Builder((2, 4, 3))
    y = b.node(ops.Relu(), b.binary("mul", "x", b.constant(0.5)))
    z = b.node(ops.Linear(), y, b.constant(RANDOM.normal(size=(5, 3))), shape=(2, 4, 5))
    assert check(b.graph(z)).nodes[0].op == ops.Affine(2)


STAYS = [
    pytest.param((2, 3, 4, 4), "div", True, np.ones(4), ["div"], id="c / x"),
    pytest.param((2, 3, 4, 4), "div", False, np.array([1.0, 0, 2, 3]), ["div"], id="a division by zero"),
    pytest.param((2, 3, 4, 4), "mul", False, np.array([1.0, np.inf, 2, 3]), ["mul"], id="an infinite factor"),
    pytest.param((2, 3, 4, 4), "pow", False, np.array(2.0), ["pow"], id="a power"),
    pytest.param((2, 3, 4, 4), "add", False, RANDOM.normal(size=(4, 4)), ["Parameter", "Sum"], id="two axes vary"),
    pytest.param((2, 3, 1, 1), "add", False, RANDOM.normal(size=(4, 4)), ["Parameter", "Sum"], id="x is enlarged"),
    pytest.param((3, 4), "add", False, RANDOM.normal(size=(2, 1, 1)), ["Parameter", "Sum"], id="x gets another axis"),
    pytest.param(("N", "C"), "add", False, RANDOM.normal(size=5), ["Parameter", "Sum"], id="an axis of any length"),
    pytest.param(("N", "C"), "add", False, np.array(2.0), ["add"], id="a number, where no axis is known"),
]


@pytest.mark.parametrize(("shape", "kind", "swapped", "constant", "left"), STAYS)
def test_what_is_no_affine_stays(shape: Shape, kind: str, swapped: bool, constant: Any, left: list[str]) -> None:
    b = Builder(shape)
    operands = (b.constant(constant), "x") if swapped else ("x", b.constant(constant))
    known = all(isinstance(dim, int) for dim in shape)
    y = b.node(ops.Binary(kind), *operands, shape=np.broadcast_shapes(shape, constant.shape) if known else shape)
    assert kinds(raised(b.graph(y))) == left


def test_integers_and_mixed_types_stay() -> None:
    counts = Builder(dtype="int64")
    assert kinds(raised(counts.graph(counts.binary("add", "x", counts.constant(1))))) == ["add"]
    halves = Builder(dtype="float16")
    y = halves.binary("mul", "x", halves.constant(GAMMA.reshape(COLUMN), "float32"))
    halves.values[y] = Value(y, (2, 3, 4, 4), "float32")
    assert kinds(raised(halves.graph(y))) == ["mul"]


def test_two_variables() -> None:
    b = Builder()
    relu = b.node(ops.Relu(), "x")
    total = b.binary("sub", "x", relu, alpha=0.5)
    y = b.binary("add", b.binary("mul", relu, total), "x", alpha=2.0)
    result = check(b.graph(y, b.binary("div", "x", relu), b.binary("pow", "x", relu), b.node(ops.Unary("square"), "x")))
    assert kinds(result) == ["Relu", "Sum", "Product", "Sum", "div", "pow", "square"]
    assert result.nodes[1].op == ops.Sum((1.0, -0.5))


def test_a_chain_ends_at_a_second_reader_an_output_and_another_axis() -> None:
    b = Builder()
    first = b.binary("mul", "x", b.constant(GAMMA.reshape(COLUMN)))
    second = b.binary("add", first, b.constant(BETA.reshape(COLUMN)))
    third = b.binary("mul", second, b.constant(np.arange(1.0, 5)))
    fourth = b.binary("mul", third, b.constant(2.0))
    result = check(b.graph(fourth, first, b.node(ops.Relu(), second)))
    affines = [(node.op, node.sources) for node in result.nodes if isinstance(node.op, ops.Affine)]
    assert affines == [(ops.Affine(1), ()), (ops.Affine(1), ()), (ops.Affine(3), ("n2", "n3"))]


def test_a_chain_that_comes_to_one_number_joins_what_is_before_it() -> None:
    b = Builder()
    y = b.binary("add", "x", b.constant(np.arange(1.0, 5)))
    column = b.constant(np.array([0.5, -2.0, 4.0]).reshape(COLUMN))
    y = b.binary("div", b.binary("add", b.binary("sub", y, column), column), b.constant(-4.0))
    (affine,) = check(b.graph(y)).nodes
    assert affine.op == ops.Affine(3)


def test_the_name_is_that_of_the_layer_whose_whole_body_it_is() -> None:
    b = Builder()
    y = b.binary("sub", "x", b.constant(MEAN.reshape(COLUMN)), name="net.bn.sub")
    y = b.binary("mul", y, b.constant(GAMMA.reshape(COLUMN)), name="net.bn.mul")
    y = b.node(ops.Relu(), y, name="net.relu")
    y = b.binary("sub", y, b.constant(MEAN.reshape(COLUMN)), name="net.more.sub")
    y = b.binary("mul", y, b.constant(GAMMA.reshape(COLUMN)), name="net.more.mul")
    y = b.node(ops.Relu(), y, name="net.more.relu")
    assert [node.name for node in check(b.graph(y)).nodes] == ["net.bn", "net.relu", "net.more.mul", "net.more.relu"]


def test_limits_of_the_parts_are_limits_of_the_whole() -> None:
    b = Builder()
    y = b.binary("sub", "x", b.constant(MEAN.reshape(COLUMN)), limits={"remove": Why.CODE})
    y = b.binary("mul", y, b.constant(GAMMA.reshape(COLUMN)), limits={"constants": Why.SHARED})
    assert raised(b.graph(y)).nodes[0].limits == {"remove": Why.CODE, "constants": Why.SHARED}


def test_nodes_that_go_together_compose_everywhere_or_nowhere() -> None:
    def calls(*, same: bool) -> Graph:
        b = Builder()
        mean, gamma = b.constant(MEAN.reshape(COLUMN)), b.constant(GAMMA.reshape(COLUMN))
        first = b.binary("mul", b.binary("sub", "x", mean, unit="bn/0"), gamma, unit="bn/1")
        inner = b.binary("sub", b.node(ops.Relu(), first), mean, unit="bn/0")
        more = () if same else (inner,)
        return b.graph(b.binary("mul", inner, gamma, unit="bn/1"), *more)

    assert [node.unit for node in check(calls(same=True)).nodes] == ["bn/1", "", "bn/1"]
    assert [node.unit for node in check(calls(same=False)).nodes] == ["bn/0", "bn/1", "", "bn/0", "bn/1"]


# Biases.


PRODUCTS = {
    "matmul": (ops.MatMul(), (3, 5), (2, 4, 5), (5,)),
    "einsum": (ops.Einsum("bti,io->bto"), (3, 5), (2, 4, 5), (5,)),
    "einsum, the weight's rows": (ops.Einsum("bti,oi->bot"), (5, 3), (2, 5, 4), (5, 1)),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_an_add_behind_a_product_is_its_bias(product: str) -> None:
    op, weight, shape, aligned = PRODUCTS[product]
    b = Builder((2, 4, 3))
    bias = b.constant(RANDOM.normal(size=aligned))
    y = b.node(op, "x", b.constant(RANDOM.normal(size=weight)), shape=shape, name="mm")
    y = b.binary("add", bias, y, name="add")
    y = b.binary("mul", y, b.constant(np.arange(1.0, 6).reshape(aligned)), name="scale")
    linear, scale = check(b.graph(y)).nodes
    assert (linear.name, linear.inputs[2], linear.sources) == ("mm", bias, ("mm", "add"))
    assert scale.op == ops.Affine(3 - len(aligned))


def test_a_bias_in_another_shape_becomes_a_constant_of_the_channels() -> None:
    b = Builder((2, 3, 4))
    product = b.node(ops.MatMul(), b.constant(RANDOM.normal(size=(5, 3))), "x", shape=(2, 5, 4), name="mm")
    result = check(b.graph(b.binary("add", product, b.constant(np.arange(5.0).reshape(1, 5, 1)))))
    assert [result.constants[node.inputs[2]].shape for node in result.nodes] == [(5, 1)]
    one = Builder((2, 3))
    y = one.node(ops.MatMul(), "x", one.constant(RANDOM.normal(size=(3, 5))), "", shape=(2, 5), name="fc")
    result = check(one.graph(one.binary("add", y, one.constant(0.5), alpha=3.0)))
    assert_allclose(result.constants["fc#bias"].load(), np.full(5, 1.5))


def test_what_is_added_to_an_operator_with_a_bias_of_its_own_is_an_affine() -> None:
    b = Builder()
    conv = ops.Conv((1, 1), (1, 1), ((0, 0), (0, 0)))
    y = b.node(conv, "x", b.constant(RANDOM.normal(size=(5, 3, 1, 1))), shape=(2, 5, 4, 4), name="conv")
    y = b.binary("add", y, b.constant(np.arange(5.0).reshape(5, 1, 1)), limits={"remove": Why.CODE})
    convolution, added = raised(b.graph(y)).nodes
    assert (convolution.op, added.op) == (conv, ops.Affine(1))
    assert added.limits["remove"] == Why.CODE


@pytest.mark.parametrize("op", [ops.MatMul(), ops.Einsum("bti,io->bto")], ids=["matmul", "einsum"])
@pytest.mark.parametrize("fault", ["read twice", "an output", "another axis", "a bias already", "a sub"])
def test_what_is_added_elsewhere_is_no_bias(fault: str, op: ops.Op) -> None:
    b = Builder((2, 3, 3))
    operands = ("x", b.constant(RANDOM.normal(size=(3, 3))))
    y = b.node(op, *operands, *([b.constant(BETA)] if fault == "a bias already" else []), shape=(2, 3, 3))
    added = b.constant(GAMMA.reshape(3, 1) if fault == "another axis" else GAMMA)
    z = b.binary("sub" if fault == "a sub" else "add", y, added)
    outputs = {"read twice": (z, b.node(ops.Relu(), y)), "an output": (z, y)}.get(fault, (z,))
    result = check(b.graph(*outputs))
    assert kinds(result)[:2] == [type(op).__name__, "Affine"]


# Constants.


def test_constants_are_evaluated_late_and_once() -> None:
    b = Builder()
    loads = []

    def load() -> Any:
        loads.append(1)
        return np.full((3, 4), 4.0)

    b.constants["w"] = Constant("w", (3, 4), "float32", load)
    rooted = b.node(ops.Unary("sqrt"), "w", shape=(3, 4))
    y = b.node(ops.Unknown("custom"), "x", rooted, shape=(2, 3, 4, 4))
    result = raised(b.graph(y))
    assert not loads
    assert [result.constants[rooted].load()[0, 0] for _ in range(2)] == [2.0, 2.0]
    assert loads == [1]
    assert rooted not in result.values


def test_layouts_of_constants_are_constants() -> None:
    b = Builder((2, 6))
    w = b.constant(np.arange(12.0).reshape(3, 4))
    turned = b.node(ops.Transpose((1, 0)), w, shape=(4, 3))
    both = b.node(ops.Concat(0), turned, turned, shape=(8, 3))
    taken = b.node(ops.Take(0, (7, 0, 2, 1, 3, 3)), both, shape=(6, 3))
    column = b.node(ops.Select(1, 2), taken, shape=(6,))
    mean = b.node(ops.Reduce("mean", (0,), True), column, shape=(1,))
    result = check(b.graph(b.binary("add", b.binary("mul", "x", column), mean)))
    assert kinds(result) == ["Affine"]
    scale, shift = (result.constants[name].load() for name in result.nodes[0].inputs[1:])
    wanted = np.concatenate([np.arange(12.0).reshape(3, 4).T] * 2)[[7, 0, 2, 1, 3, 3], 2]
    assert_allclose(scale, wanted)
    assert_allclose(shift, np.full(6, wanted.mean()))


def test_a_split_of_constants_and_a_cast_that_rounds() -> None:
    b = Builder((2, 2), dtype="float16")
    wide = b.constant([1 / 3, 2.0, 5.0, 6.0], "float32")
    half = b.node(ops.Cast(), wide, shape=(4,))
    b.values |= {name: Value(name, (2,), "float16") for name in ("one", "two")}
    b.nodes.append(Node("split", ops.Split(0, (2, 2)), (half,), ("one", "two")))
    result = raised(b.graph(b.binary("add", b.binary("mul", "x", "one"), "two")))
    assert kinds(result) == ["Affine"]
    assert_allclose(result.constants["one"].load(), [float(np.float16(1 / 3)), 2.0], rtol=0)
    assert_allclose(result.constants["two"].load(), [5.0, 6.0])


@pytest.mark.parametrize("fault", ["huge", "integers", "an output", "deep"])
def test_constants_that_stay_nodes(fault: str) -> None:
    b = Builder((1,))
    y = b.constant([1.0], "int64" if fault == "integers" else None)
    shape = (3, 1_000_000) if fault == "huge" else (1,)
    for _ in range(150 if fault == "deep" else 1):
        y = b.node(ops.Expand(), y, shape=shape)
    result = raised(b.graph(*([y] if fault == "an output" else [])))
    assert "Expand" in kinds(result)


def test_raising_again_changes_nothing() -> None:
    b = Builder()
    result = raised(b.graph(b.node(ops.Relu(), textbook(b))))
    assert str(raised(result)) == str(result)
