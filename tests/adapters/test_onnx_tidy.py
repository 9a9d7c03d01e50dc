"""What a fold leaves side by side: layout operators that cancel, and arithmetic that is one affine."""

import numpy as np
import pytest

from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model

NHWC, NCHW = "Transpose<perm=[0,2,3,1]>", "Transpose<perm=[0,3,1,2]>"


@pytest.mark.parametrize(
    ("middle", "tensors", "left"),
    [
        pytest.param(
            f"d = {NHWC}(c) e = Mul(d, s) f = Add(e, t) y = {NCHW}(f)",
            {"s": (4,), "t": (4,)},
            ["Conv", "Relu"],
            id="transposes",
        ),
        pytest.param(
            f"d = {NHWC}(c) e = Mul(d, s) z = Shape(d) y = {NCHW}(e)",
            {"s": (4,)},
            ["Conv", "Transpose", "Shape", "Relu"],
            id="a transpose that another node needs",
        ),
        pytest.param(
            f"d = {NHWC}(c) e = Mul(d, s) y = {NHWC}(e)",
            {"s": (4,)},
            ["Conv", "Transpose", "Transpose", "Relu"],
            id="transposes that don't cancel",
        ),
        pytest.param(
            "d = Unsqueeze(c, two) e = Mul(d, s) y = Squeeze(e, two)",
            {"s": (1, 4, 1, 1, 1), "two": np.array([2])},
            ["Conv", "Relu"],
            id="unsqueeze, squeeze",
        ),
        pytest.param(
            "d = Reshape(c, flat) e = Mul(d, s) y = Reshape(e, other)",
            {"s": (4, 1), "flat": np.array([0, 4, 36]), "other": np.array([0, 4, 4, 9])},
            ["Conv", "Reshape", "Reshape", "Relu"],
            id="reshapes to another shape",
        ),
    ],
)
def test_layout_operators_that_cancel_go_too(middle, tensors, left, tmp_path):
    ends = "int64[4] z" if "z =" in middle else "float[a,b,c,d] last"
    text = f"(float[N,3,8,8] x) => ({ends}, float[a,b,c,d] r) {{ c = Conv(x, w) {middle} r = Relu(y) }}"
    proto = model(text, w=(4, 3, 3, 3), **tensors)
    if "z =" not in middle:
        del proto.graph.output[0]
    folded, result = fold_and_check(proto, tmp_path)
    assert result.plan.folded
    assert kinds(folded) == left


def test_a_layout_that_ends_in_an_output(tmp_path):
    text = f"(float[N,3,8,8] x) => (float[N,4,6,6] y) {{ c = Conv(x, w) d = {NHWC}(c) e = Mul(d, s) y = {NCHW}(e) }}"
    folded, _ = fold_and_check(model(text, w=(4, 3, 3, 3), s=(4,)), tmp_path)
    assert kinds(folded) == ["Conv"]


def test_arithmetic_that_stays_becomes_one_operator(tmp_path):
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,8,8,4] z)
    { a = Sub(x, m) b = Mul(a, s) c = Add(b, t) y = Relu(c)
    d = Transpose<perm=[0,2,3,1]>(x) e = Mul(d, u) f = Add(e, k) z = Tanh(f) }"""
    proto = model(text, **dict.fromkeys("mst", (4, 1, 1)), u=(4,), k=(4,))
    folded, result = fold_and_check(proto, tmp_path)
    assert len(result.plan.kept) == 2
    assert kinds(folded) == ["BatchNormalization", "Relu", "Transpose", "Mul", "Add", "Tanh"]
    assert not {"m", "s", "t"} & {item.name for item in folded.graph.initializer}


LAST = "(float[N,7,4] x) => (float[N,7,4] y) "
JOINED = [
    ("a = Sub(x, m) b = Mul(a, s) c = Add(b, t) y = Tanh(c)", "Mul Add Tanh"),
    ("a = Sub(x, m) b = Div(a, s) c = Mul(b, m) d = Add(c, t) y = Tanh(d)", "Mul Add Tanh"),
    ("a = Mul(x, s) b = Div(a, t) y = Tanh(b)", "Mul Tanh"),
    ("a = Mul(x, s) b = Add(a, t) y = Tanh(b)", "Mul Add Tanh"),
    ("a = Add(x, s) b = Mul(a, t) y = Tanh(b)", "Add Mul Tanh"),
]


@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize(("nodes", "left"), JOINED)
def test_arithmetic_along_the_last_axis_takes_the_fewest_operators(nodes, left, level, tmp_path):
    used = {name: (4,) for name in "mst" if f"{name})" in nodes}
    folded, _ = fold_and_check(model(f"{LAST}{{ {nodes} }}", **used), tmp_path, level=level)
    assert kinds(folded) == left.split()


def test_a_number_stays_a_number(tmp_path):
    text = "(float x, float[3] u) => (float y, float[3] z) "
    text += "{ a = Mul(x, m) b = Mul(a, s) y = Tanh(b) c = Mul(u, m) d = Mul(c, s) z = Exp(d) }"
    folded, _ = fold_and_check(model(text, m=(), s=()), tmp_path)
    assert kinds(folded) == ["Mul", "Mul", "Tanh", "Mul", "Exp"]


@pytest.mark.parametrize(
    ("level", "left"), [("default", "BatchNormalization Tanh Mul Exp"), ("max", "Mul Add Tanh Mul Exp")]
)
def test_where_the_target_has_no_batch_norm_arithmetic_is_joined_too(level, left, tmp_path):
    text = """(float[N,4,7] x) => (float[N,4,7] y, float[N,4,7] z)
        { a = Sub(x, m) b = Mul(a, s) c = Add(b, t) y = Tanh(c) d = Mul(x, m) e = Div(d, s) z = Exp(e) }"""
    folded, _ = fold_and_check(model(text, m=(4, 1), s=(4, 1), t=(4, 1)), tmp_path, level=level)
    assert kinds(folded) == left.split()


def test_an_add_that_stays_is_an_add(tmp_path):
    """A hard-swish in parts: its 1/6 goes into the next layer, where it costs nothing, and not around the Add."""
    text = """(float[N,3,8,8] x) => (float[N,5,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) b = BN(c) a = Add(b, three)
    k = Clip(a, zero, six) m = Mul(b, k) d = Div(m, six) y = Conv<pads=[1,1,1,1]>(d, v) }"""
    numbers = {"three": 3.0, "zero": 0.0, "six": 6.0}
    tensors = {name: np.array(number, np.float32) for name, number in numbers.items()}
    folded, _ = fold_and_check(model(text, w=(4, 3, 3, 3), v=(5, 4, 3, 3), **tensors, **batch_norm(4)), tmp_path)
    assert kinds(folded) == ["Conv", "Add", "Clip", "Mul", "Conv"]


def test_arithmetic_of_a_constant_that_may_be_overridden_stays(tmp_path):
    from onnx import helper

    text = "(float[N,4,8,8] x) => (float[N,4,8,8] y) { b = Mul(x, s) c = Add(b, t) y = Relu(c) }"
    proto = model(text, s=(4, 1, 1), t=(4, 1, 1))
    proto.graph.input.append(helper.make_tensor_value_info("t", 1, [4, 1, 1]))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Mul", "Add", "Relu"]


def test_layouts_in_and_around_a_body_stay(tmp_path):
    body, other = (f"{m} = Mul(t, s) {o} = {NCHW}({m})" for m, o in ("mo", "np"))
    text = f"""(float[2,3,8,8] x, bool f) => (float[2,4,6,6] y) {{ c = Conv(x, w) t = {NHWC}(c)
        y = If(f)<then_branch = a () => (float[2,4,6,6] o) {{ {body} }},
                  else_branch = b () => (float[2,4,6,6] p) {{ {other} }}> }}"""
    folded, _ = fold_and_check(model(text, w=(4, 3, 3, 3), s=(4,)), tmp_path)
    assert kinds(folded) == ["Conv", "Transpose", "If"]
