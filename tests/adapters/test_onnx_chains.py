"""Constants that nodes make: every form that exporters give them, by the numbers that a runtime makes of them."""

import numpy as np
import onnx
import pytest

import bnfold
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model, numbers

IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y) "
W = {"w": (4, 3, 3, 3)}
LINE = numbers("line", (4,))
COLUMN = LINE.reshape(4, 1, 1)
SHAPE = np.array([4, 1, 1])
FORMS = {  # nodes that make s: the opset, and the tensors that they are made of
    "value": ("s = Constant<value = float[4,1,1] {1.5, -2.0, 0.5, 3.0}>()", 13, {}),
    "value_float": ("s = Constant<value_float = 0.25>()", 13, {}),
    "value_floats": ("k = Constant<value_floats = [1.0,2.0,-3.0,4.0]>() s = Reshape(k, d)", 13, {"d": SHAPE}),
    "value_int": (
        "a = Constant<value_int = 1>() b = Constant<value_ints = [-1]>() e = Reshape(a, b) "
        "d = Concat<axis=0>(f, e, e) s = Reshape(k, d)",
        13,
        {"k": LINE, "f": np.array([4])},
    ),
    "value_ints": ("d = Constant<value_ints = [4,1,1]>() s = Reshape(k, d)", 13, {"k": LINE}),
    "identity": ("i = Identity(k) s = Identity(i)", 13, {"k": COLUMN}),
    "cast from half": ("s = Cast<to=1>(k)", 13, {"k": COLUMN.astype(np.float16)}),
    "cast from double": ("s = Cast<to=1>(k)", 13, {"k": COLUMN.astype(np.float64) / 3}),
    "cast from integers": ("s = Cast<to=1>(k)", 13, {"k": np.array([3, -2, 1, 5], np.int8).reshape(4, 1, 1)}),
    "cast that rounds": ("h = Cast<to=10>(k) s = Cast<to=1>(h)", 13, {"k": COLUMN / 3}),
    "cast that cuts": ("h = Cast<to=7>(k) s = Cast<to=1>(h)", 13, {"k": COLUMN * 9}),
    "cast like": ("s = CastLike(k, x)", 15, {"k": COLUMN.astype(np.float64) / 3}),
    "reshape, the old length and the rest": ("s = Reshape(k, d)", 13, {"k": LINE, "d": np.array([0, 1, -1])}),
    "reshape, no zeros": ("s = Reshape<allowzero=1>(k, d)", 14, {"k": LINE, "d": SHAPE}),
    "flatten": ("f = Flatten<axis=1>(k) s = Reshape(f, d)", 13, {"k": (4, 1, 1), "d": SHAPE}),
    "unsqueeze, attribute": ("s = Unsqueeze<axes=[1,2]>(k)", 11, {"k": LINE}),
    "unsqueeze, from behind": ("s = Unsqueeze(k, d)", 13, {"k": LINE, "d": np.array([-1, -2])}),
    "squeeze, attribute": ("s = Squeeze<axes=[0]>(k)", 11, {"k": (1, 4, 1, 1)}),
    "squeeze, operand": ("s = Squeeze(k, d)", 13, {"k": (1, 4, 1, 1), "d": np.array([-4])}),
    "squeeze of all": ("q = Squeeze(k) s = Unsqueeze(q, d)", 13, {"k": (1, 4, 1, 1), "d": np.array([1, 2])}),
    "transpose, reversed": ("s = Transpose(k)", 13, {"k": (1, 1, 4)}),
    "transpose": ("s = Transpose<perm=[2,0,1]>(k)", 13, {"k": (1, 1, 4)}),
    "expand": ("s = Expand(k, d)", 13, {"k": (1, 1, 1), "d": SHAPE}),
    "filled": ("s = ConstantOfShape<value = float[1] {2.5}>(d)", 13, {"d": SHAPE}),
    "gather": ("s = Gather<axis=-1>(k, i)", 13, {"k": LINE, "i": np.array([[[2]], [[-1]], [[0]], [[1]]])}),
    "slice, operands": (
        "g = Slice(k, a, b, i, e) s = Reshape(g, d)",
        13,
        {"k": (8,), "a": np.array([-1]), "b": np.array([-99]), "i": np.array([0]), "e": np.array([-2]), "d": SHAPE},
    ),
    "slice, attributes": ("s = Slice<starts=[1], ends=[99], axes=[-3]>(k)", 9, {"k": (5, 1, 1)}),
    "concat": ("s = Concat<axis=-3>(k, j)", 13, {"k": (1, 1, 1), "j": (3, 1, 1)}),
    "a shape, in part": (
        "a = Shape<start=0, end=1>(k) d = Concat<axis=0>(a, o) s = Reshape(k, d)",
        15,
        {"k": (4, 1), "o": np.array([1, 1])},
    ),
    "a shape, from behind": (
        "a = Shape<start=-2, end=-1>(k) d = Concat<axis=0>(a, o) s = Reshape(k, d)",
        15,
        {"k": (1, 4, 1), "o": np.array([1, 1])},
    ),
    "sizes by arithmetic": (
        "a = Add(f, g) b = Div(a, h) m = Mul(b, h) e = Sub(m, g) d = Concat<axis=0>(e, o) s = Reshape(k, d)",
        13,
        {"k": LINE, "f": np.array([5]), "g": np.array([2]), "h": np.array([3]), "o": np.array([1, 1])},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_factor_is_folded_in_whatever_form_it_is(form, tmp_path):
    nodes, opset, tensors = FORMS[form]
    proto = model(f"{IMAGE}{{ {nodes} c = Conv(x, w) y = Mul(c, s) }}", opset, **W, **tensors)
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv"]


def test_zeros_are_what_a_shape_alone_is_filled_with(tmp_path):
    text = IMAGE + "{ s = ConstantOfShape(d) c = Conv(x, w, b) y = Sub(s, c) }"
    folded, _ = fold_and_check(model(text, **W, b=(4,), d=SHAPE), tmp_path)
    assert kinds(folded) == ["Conv"]


def test_a_constant_of_few_numbers_among_zeros_is_left_alone(tmp_path):
    proto = model(IMAGE + "{ s = Constant() c = Conv(x, w) y = Mul(c, s) }", 13, **W)
    values = onnx.numpy_helper.from_array(np.array([2, 3], np.float32), "values")
    held = onnx.helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(np.array([0, 3])), [4, 1, 1])
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("sparse_value", held))
    onnx.save(proto, tmp_path / "model.onnx")
    assert not bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx").plan.folded
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_chains_that_feed_no_fold_are_not_evaluated(tmp_path):
    """A row that isn't there would be refused; who never asks for it never knows."""
    text = IMAGE + "{ g = Gather(k, i) t = Tanh(g) c = Conv(x, w) n = BN(c) y = Add(n, t) }"
    proto = model(text, **W, **batch_norm(4), k=(1, 1, 1), i=np.array(7))
    onnx.save(proto, tmp_path / "model.onnx")
    assert bnfold.fold(tmp_path / "model.onnx", output=tmp_path / "folded.onnx").plan.kept == ()
