"""Plain networks get the shapes that ONNX's own inference gives; all else is left to it."""

import numpy as np
import onnx
import pytest

from bnfold.adapters import onnx_graph
from bnfold.adapters.onnx_file import read
from bnfold.adapters.onnx_plain import _RULES, initializer_shapes, plain_shapes
from bnfold.adapters.onnx_shapes import inferred, shapes
from tests.adapters.onnx_cases import batch_norm, model, numbers

X = "(float[N,4,9,8] x) => (float[N,M] y)"
CONV = {"w": (6, 4, 3, 3)}
HOLDS = {
    "conv": (f"{X} {{ y = Conv(x, w) }}", CONV),
    "conv, everything": (
        f"{X} {{ y = Conv<strides=[2,3], pads=[2,1,0,3], dilations=[2,1], kernel_shape=[3,3]>(x, w) }}",
        CONV,
    ),
    "conv, groups and bias": (f"{X} {{ y = Conv<group=2>(x, w, b) }}", {"w": (6, 2, 3, 3), "b": (6,)}),
    "conv over one axis": ("(float[2,4,9] x) => (float[N] y) { y = Conv(x, w) }", {"w": (6, 4, 2)}),
    "conv over three": ("(float[2,4,9,8,7] x) => (float[N] y) { y = Conv(x, w) }", {"w": (6, 4, 2, 3, 4)}),
    "batch norm": (f"{X} {{ y = BN(x) }}", batch_norm(4)),
    "any size through activations": ("(float[N,4,h,w] x) => (float[N] y) { r = Relu(x) y = Sigmoid(r) }", {}),
    "max pool": (f"{X} {{ y = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,0], dilations=[1,2]>(x) }}", {}),
    "average pool": (f"{X} {{ y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }}", {}),
    "global pools": (f"{X} {{ a = GlobalAveragePool(x) b = GlobalMaxPool(x) y = Add(a, b) }}", {}),
    "sum": (f"{X} {{ r = Relu(x) y = Add(x, r) }}", {}),
    "gate": (f"{X} {{ g = GlobalAveragePool(x) y = Mul(x, g) }}", {}),
    "constant": (f"{X} {{ y = Sub(c, x) }}", {"c": (4, 1, 8)}),
    "constant of a higher rank": (f"{X} {{ y = Div(x, c) }}", {"c": (1, 1, 4, 1, 1)}),
    "flatten": (f"{X} {{ y = Flatten(x) }}", {}),
    "flatten, one axis left": ("(float[N,4] x) => (float[N] y) { y = Flatten<axis=1>(x) }", {}),
    "gemm": ("(float[N,4] x) => (float[N] y) { y = Gemm(x, w, b) }", {"w": (4, 5), "b": (5,)}),
    "gemm, transposed": ("(float[4,N] x) => (float[N] y) { y = Gemm<transA=1, transB=1>(x, w) }", {"w": (5, 4)}),
    "concat": (f"{X} {{ c = Conv(x, w) y = Concat<axis=1>(x, c, x) }}", {"w": (6, 4, 1, 1)}),
    "concat, other axis": (f"{X} {{ r = Relu(x) y = Concat<axis=3>(x, r) }}", {}),
    "a double": ("(double[N,4] x) => (double[N,4] y) { y = Relu(x) }", {}),
    "half precision": ("(float16[N,4] x) => (float16[N,4] y) { y = Mul(x, w) }", {"w": numbers("w", (4,), "float16")}),
}  # fmt: skip
STOPS = {
    "operator without a rule": (f"{X} {{ y = Erf(x) }}", {}),
    "other domain": (f'<ir_version: 8, opset_import: ["": 17, "o": 1]> g {X} {{ y = o.Relu(x) }}', {}),
    "padding by sizes": (f'{X} {{ y = Conv<auto_pad="SAME_UPPER">(x, w) }}', CONV),
    "unknown sizes": ("(float[N,4,h,9] x) => (float[N] y) { y = Conv(x, w) }", CONV),
    "size that has no name": ("(float[?,4] x) => (float[N] y) { y = Relu(x) }", {}),
    "rounded up": (f"{X} {{ y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x) }}", {}),
    "two outputs": (f"{X} {{ y, i = MaxPool<kernel_shape=[2,2]>(x) }}", {}),
    "kernel that is larger than x": (f"{X} {{ y = Conv(x, w) }}", {"w": (6, 4, 3, 9)}),
    "kernel of another shape": (f"{X} {{ y = Conv<kernel_shape=[2,3]>(x, w) }}", CONV),
    "strides of another rank": (f"{X} {{ y = Conv<strides=[2]>(x, w) }}", CONV),
    "no stride": (f"{X} {{ y = Conv<strides=[0,1]>(x, w) }}", CONV),
    "lengths that may differ": ("(float[N,4] x, float[M,4] z) => (float[N] y) { y = Add(x, z) }", {}),
    "flatten of an unknown size": ("(float[N,4,h] x) => (float[N] y) { y = Flatten(x) }", {}),
    "flatten elsewhere": (f"{X} {{ y = Flatten<axis=2>(x) }}", {}),
    "concat of unknown sizes": ("(float[N,4] x) => (float[N] y) { y = Concat<axis=0>(x, x) }", {}),
    "concat of what doesn't fit": (f"{X} {{ g = GlobalMaxPool(x) y = Concat<axis=1>(x, g) }}", {}),
    "concat from behind": (f"{X} {{ y = Concat<axis=-1>(x, x) }}", {}),
    "gemm of another rank": (f"{X} {{ y = Gemm(x, w) }}", {"w": (4, 5)}),
    "pooling of no axis": ("(float[N,4] x) => (float[N] y) { y = GlobalMaxPool(x) }", {}),
    "unsorted": (f"{X} {{ y = Relu(r) r = Relu(x) }}", {}),
    "body": (
        "(float[N,4] x, bool c) => (float[N] y) { y = If(c) <"
        "then_branch = g () => (float[N,4] a) { a = Relu(x) }, else_branch = h () => (float[N,4] b) { b = Abs(x) }> }",
        {},
    ),
}  # fmt: skip


def found_in(proto):
    return plain_shapes(proto, initializer_shapes(proto))


def agree(proto):
    found = found_in(proto)
    assert found is not None
    for name, type_ in shapes(inferred(proto).graph).items():
        assert found[name] == type_, name


@pytest.mark.parametrize("name", HOLDS)
def test_the_shapes_are_those_of_onnx(name):
    text, tensors = HOLDS[name]
    agree(model(text, **tensors))


@pytest.mark.parametrize("name", STOPS)
def test_all_else_is_left_to_onnx(name):
    text, tensors = STOPS[name]
    assert found_in(model(text, **tensors)) is None


def test_an_input_of_another_shape_than_its_initializer_is_left_to_onnx():
    proto = model("(float[N,4] x, float[4] w) => (float[N] y) { y = Mul(x, w) }", w=(4,))
    agree(proto)
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 5
    assert found_in(proto) is None


def test_an_input_of_any_rank_is_left_to_onnx():
    proto = model("(float[N,4] x) => (float[N] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert found_in(proto) is None


def test_a_local_function_is_left_to_onnx():
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g (float[N,4] x) => (float[N,4] y) { y = f.Relu(x) }
    <domain: "f", opset_import: ["" : 17]> Relu (a) => (b) { b = Abs(a) }"""
    assert found_in(onnx.parser.parse_model(text)) is None


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_random_networks_agree(start):
    for seed in range(start, start + 50):
        agree(random_network(seed))


def test_every_rule_is_drawn():
    drawn = {node.op_type for seed in range(200) for node in random_network(seed).graph.node}
    assert drawn == set(_RULES)


def test_the_graph_is_the_same_by_either(monkeypatch):
    for seed in range(30):
        proto = random_network(seed)
        plain = str(read(proto))
        with monkeypatch.context() as patch:
            patch.setattr(onnx_graph, "plain_shapes", lambda proto, dims: None)
            assert str(read(proto)) == plain


def random_network(seed):
    """Twelve nodes, each of any operator that a rule covers, of values that came before."""
    random = np.random.default_rng(seed)
    made = {"x": ("N", 4, int(random.integers(9, 14)), int(random.integers(9, 14)))}
    nodes, tensors = [], {}
    for number in range(12):
        kind, name = str(random.choice(sorted(_RULES))), f"v{number}"
        x = str(random.choice(list(made)))
        text, shapes_of = DRAWN.get(kind, unary)(random, kind, x, made, name)
        if text is None:
            continue
        nodes.append(f"{name} = {text}")
        tensors |= {key: np.ones(shape, np.float32) for key, shape in shapes_of.items()}
        proto = model(f"({declared('x', made['x'])}) => (float[K] {name}) {{ {' '.join(nodes)} }}", **tensors)
        made[name] = shapes(inferred(proto).graph)[name][0]
    return proto


def declared(name, shape):
    return f"float[{','.join(map(str, shape))}] {name}"


def unary(random, kind, x, made, name):
    return f"{kind}({x})", {}


def conv(random, kind, x, made, name):
    if len(made[x]) != 4 or min(made[x][2:]) < 5:
        return None, {}
    group = int(random.choice([one for one in (1, 2, 4) if made[x][1] % one == 0]))
    kernel, outputs = random.integers(1, 4, 2), 4 * int(random.integers(1, 3))
    shape = (outputs, made[x][1] // group, *map(int, kernel))
    return f"Conv<group={group}, {window(random)}>({x}, {name}.w)".replace(".w", "_w"), {f"{name}_w": shape}


def window(random):
    strides, dilations, pads = random.integers(1, 3, 2), random.integers(1, 3, 2), random.integers(0, 2, 4)
    lists = {"strides": strides, "dilations": dilations, "pads": pads}
    return ", ".join(f"{name} = [{','.join(map(str, given))}]" for name, given in lists.items())


def pool(random, kind, x, made, name):
    if len(made[x]) != 4 or min(made[x][2:]) < 5:
        return None, {}
    chosen = window(random) if kind == "MaxPool" else "strides = [2,1], pads = [0,1,1,0]"
    return f"{kind}<kernel_shape = [2,3], {chosen}>({x})", {}


def pool_all(random, kind, x, made, name):
    return (f"{kind}({x})", {}) if len(made[x]) == 4 else (None, {})


def binary(random, kind, x, made, name):
    alike = [other for other, shape in made.items() if shape == made[x] or shape == (*made[x][:2], 1, 1)]
    if random.random() < 0.5 or len(made[x]) != 4:
        return f"{kind}({x}, {name}_c)", {f"{name}_c": (made[x][1], *(1,) * (len(made[x]) - 2))}
    return f"{kind}({x}, {random.choice(alike)})", {}


def gemm(random, kind, x, made, name):
    flat = [other for other, shape in made.items() if len(shape) == 2]
    if not flat:
        return None, {}
    x = str(random.choice(flat))
    return f"Gemm<transB=1>({x}, {name}_w, {name}_b)", {f"{name}_w": (5, made[x][1]), f"{name}_b": (5,)}


def concat(random, kind, x, made, name):
    alike = [other for other, shape in made.items() if (shape[0], *shape[2:]) == (made[x][0], *made[x][2:])]
    return f"Concat<axis=1>({x}, {random.choice(alike)})", {}


def norm(random, kind, x, made, name):
    parts = {f"{name}_{part}": (made[x][1],) for part in ("gamma", "beta", "mean", "var")}
    return f"BatchNormalization({x}, {', '.join(parts)})", parts


def p_relu(random, kind, x, made, name):
    return f"PRelu({x}, {name}_s)", {f"{name}_s": (made[x][1], *(1,) * (len(made[x]) - 2))}


DRAWN = {
    "Conv": conv, "MaxPool": pool, "AveragePool": pool, "GlobalAveragePool": pool_all, "GlobalMaxPool": pool_all,
    "Gemm": gemm, "Concat": concat, "BatchNormalization": norm, "PRelu": p_relu,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), binary),
}  # fmt: skip
