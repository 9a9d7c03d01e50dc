"""What the fold of an ONNX file must reach: one small real file a case, with the operators that are left."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.adapters.onnx_file import fold_file
from tests.adapters.onnx_cases import batch_norm, feeds_of, fold_and_check, kinds, model, numbers, run

IMAGE = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
ROWS = "(float[N,3] x) => (float[N,4] y)"
W: Mapping[str, object] = {"w": (4, 3, 3, 3)}
M: Mapping[str, object] = {"w": (3, 4)}
COLUMN = (4, 1, 1)
BN = batch_norm(4)

FOLDS = [
    pytest.param(IMAGE + "{ c = Conv(x, w) y = BN(c) }", W | BN, "Conv", id="conv"),
    pytest.param(IMAGE + "{ c = Conv(x, w, b) y = BN<epsilon=0.5>(c) }", W | BN | {"b": (4,)}, "Conv", id="epsilon"),
    pytest.param(IMAGE + "{ c = Conv(x, w, ) y = BN(c) }", W | BN, "Conv", id="an empty bias"),
    pytest.param(
        IMAGE + '{ c = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) y = BN(c) }', W | BN, "Conv", id="same padding"
    ),
    pytest.param(
        IMAGE + '{ c = BN(x) y = Conv<auto_pad="SAME_UPPER">(c, w) }',
        {"w": (4, 3, 1, 1)} | batch_norm(3),
        "Conv",
        id="same padding of a kernel that needs none",
    ),
    pytest.param(
        IMAGE + '{ c = BN(x) y = Conv<auto_pad="VALID">(c, w) }', W | batch_norm(3), "Conv", id="valid padding"
    ),
    pytest.param(
        "(float[N,4,8,8] x) => (float[N,6,8,8] y) { c = Conv<group=2, pads=[1,1,1,1]>(x, w) y = BN(c) }",
        {"w": (6, 2, 3, 3)} | batch_norm(6),
        "Conv",
        id="groups",
    ),
    pytest.param(
        "(float[N,4,5] x) => (float[N,4,5] y) { c = Conv<group=4, pads=[1,1]>(x, w) y = BN(c) }",
        {"w": (4, 1, 3)} | BN,
        "Conv",
        id="depthwise, one spatial axis",
    ),
    pytest.param(
        "(float[N,2,4,4,4] x) => (float[N,4,a,b,c] y) { c = Conv(x, w) y = BN(c) }",
        {"w": (4, 2, 3, 3, 3)} | BN,
        "Conv",
        id="three spatial axes",
    ),
    pytest.param(
        """(float[N,4,5,5] x) => (float[N,6,h,w] y)
        { c = ConvTranspose<group=2, strides=[2,2], output_padding=[1,1]>(x, w) y = BN(c) }""",
        {"w": (4, 3, 3, 3)} | batch_norm(6),
        "ConvTranspose",
        id="transposed, groups",
    ),
    *(
        pytest.param(
            f"(float[N,4,5,5] x) => (float[N,4,h,w] y) {{ c = ConvTranspose<{how}>(x, w, b) y = BN(c) }}",
            {"w": (4, 4, 3, 3), "b": (4,)} | BN,
            "ConvTranspose",
            id=f"transposed, {how}",
        )
        for how in (
            "strides=[2,2], output_shape=[10,11]",
            "strides=[3,2], dilations=[2,1], kernel_shape=[3,3], pads=[1,0,2,1]",
            'strides=[2,2], auto_pad="SAME_LOWER"',
        )
    ),
    *(
        pytest.param(
            f'(float[N,7,3] x) => (float[N,4,7] y) {{ c = Einsum<equation="{equation}">({operands}) y = Mul(c, s) }}',
            {"w": shape, "s": (4, 1)},
            "Einsum",
            id=f"einsum, {equation}",
        )
        for equation, operands, shape in (
            ("io,nti->not", "w, x", (3, 4)),
            (" nti , oi -> not ", "x, w", (4, 3)),
            ("NTi,iO->NOT", "x, w", (3, 4)),
            ("nti,tio->not", "x, w", (7, 3, 4)),
        )
    ),
    pytest.param(
        "(float[N,4,5,5] x) => (float[N,4,h,w] y) { c = ConvTranspose(x, w, b) y = BN(c) }",
        {"w": (4, 4, 3, 3), "b": (4,)} | BN,
        "ConvTranspose",
        id="transposed, as many channels in as out",
    ),
    *(
        pytest.param(
            f"(float[{'3,2' if a else '2,3'}] x) => (float[2,4] y)"
            f"{{ c = Gemm<alpha=0.5, beta=2.0, transA={a}, transB={b}>(x, w, b) y = BN(c) }}",
            {"w": (4, 3) if b else (3, 4), "b": (4,)} | BN,
            "Gemm",
            id=f"gemm, transA={a}, transB={b}",
        )
        for a in (0, 1)
        for b in (0, 1)
    ),
    pytest.param(ROWS + "{ c = Gemm(x, w) y = BN(c) }", M | BN, "Gemm", id="gemm without a bias"),
    pytest.param(ROWS + "{ c = Gemm(x, w, b) y = BN(c) }", M | BN | {"b": ()}, "Gemm", id="gemm, a scalar bias"),
    pytest.param(ROWS + "{ c = MatMul(x, w) y = BN(c) }", M | BN, "Gemm", id="matmul of matrices"),
    pytest.param(
        ROWS + "{ c = MatMul(x, w) d = Add(b, c) y = BN(d) }", M | BN | {"b": (4,)}, "MatMul Add", id="matmul, add"
    ),
    pytest.param(
        """(float[N,7,3] x) => (float[N,4,7] y)
        { c = MatMul(x, w) d = Add(c, b) e = Transpose<perm=[0,2,1]>(d) y = BN(e) }""",
        M | BN | {"b": (4,)},
        "MatMul Add Transpose",
        id="matmul, add, transpose",
    ),
    pytest.param(
        "(float[N,7,3] x) => (float[N,4,7] y) { c = MatMul(x, w) e = Transpose<perm=[0,2,1]>(c) y = Mul(e, s) }",
        M | {"s": (4, 1)},
        "MatMul Transpose",
        id="matmul, transpose, a scale alone",
    ),
    pytest.param(
        '(float[N,7,3] x) => (float[N,4,7] y) { c = Einsum<equation="nti,io->not">(x, w) y = Mul(c, s) }',
        M | {"s": (1, 4, 1)},
        "Einsum",
        id="einsum",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) d = Mul(c, s) y = Add(d, t) }",
        W | {"s": COLUMN, "t": (1, 4, 1, 1)},
        "Conv",
        id="mul, add",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) d = Sub(c, m) e = Mul(d, s) y = Add(t, e) }",
        W | {"m": COLUMN, "s": COLUMN, "t": COLUMN},
        "Conv",
        id="sub, mul, add",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) d = Sub(c, m) e = Div(d, var) f = Mul(s, e) y = Add(f, t) }",
        W | {"m": COLUMN, "var": COLUMN, "s": COLUMN, "t": COLUMN},
        "Conv",
        id="sub, div, mul, add",
    ),
    pytest.param(IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", W | {"s": ()}, "Conv", id="one number"),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", W | {"s": (1, 1, 1, 1)}, "Conv", id="one number, four axes"
    ),
    pytest.param(IMAGE + "{ c = Conv(x, w) y = Sub(k, c) }", W | {"k": COLUMN}, "Conv", id="constant less conv"),
    pytest.param(
        IMAGE
        + """{ c = Conv(x, w) vv = Unsqueeze(var, axes) e = Add(vv, varepsilon) r = Sqrt(e) mm = Identity(m)
        d = Sub(c, mm) q = Div(d, r) gg = Reshape(gamma, shape) f = Mul(q, gg)
        b0 = Cast<to=1>(beta) b1 = Transpose(b0) b2 = Expand(b1, full) y = Add(f, b2) }""",
        W
        | {"var": (4,), "axes": np.array([1, 2]), "varepsilon": (), "m": COLUMN, "gamma": (4,)}
        | {"shape": np.array([1, 4, 1, -1]), "beta": numbers("beta", (1, 1, 4), "float16")}
        | {"full": np.array([1, 4, 1, 1])},
        "Conv",
        id="constants by chains",
    ),
    pytest.param(
        IMAGE
        + """{ s = Constant<value = float[4,1,1] {1.5, -2.0, 0.5, 3.0}>() k = Constant<value_float = 0.25>()
        shape = Constant<value_ints = [4,1,1]>() t = ConstantOfShape<value = float[1] {2.5}>(shape)
        c = Conv(x, w) d = Mul(c, s) e = Add(d, t) y = Sub(e, k) }""",
        W,
        "Conv",
        id="constants from nodes",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) t = Tile(c, repeats) y = BN(t) }",
        W | BN | {"repeats": np.array([1, 1, 2, 3])},
        "Conv Tile",
        id="tiled",
    ),
    *(
        pytest.param(
            IMAGE + f"{{ c = Conv(x, w) d = Conv(x, v) e = Conv(x, u) m = {kind}(c, d, e) y = Mul(m, s) }}",
            W | {"v": (4, 3, 3, 3), "u": (4, 3, 3, 3), "s": np.abs(numbers("s", COLUMN))},
            f"Conv Conv Conv {kind}",
            id=f"{kind} of three",
        )
        for kind in ("Max", "Min")
    ),
    pytest.param(IMAGE + "{ d = BN(x) y = Conv(d, w) }", W | batch_norm(3), "Conv", id="before an unpadded conv"),
    pytest.param(
        IMAGE + "{ a = Conv(x, w) b = Conv(x, v) c = Concat<axis=1>(a, b) d = BN(c) y = Conv(d, u) }",
        {"w": (2, 3, 3, 3), "v": (3, 3, 3, 3), "u": (4, 5, 1, 1)} | batch_norm(5),
        "Conv Conv Concat Conv",
        id="after a concat",
    ),
    pytest.param(
        "(float[N,3,8,8] x) => (float[N,4] y) { c = Conv(x, w) p = GlobalAveragePool(c) f = Flatten(p) y = BN(f) }",
        W | BN,
        "Conv GlobalAveragePool Flatten",
        id="behind pooling and flatten",
    ),
    pytest.param(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y, int64[4] z) { c = Conv(x, w) z = Shape(c) y = BN(c) }",
        W | BN,
        "Conv Shape",
        id="another reader asks for the shape",
    ),
    pytest.param(IMAGE + "{ c = Conv(x, w) d = BN(c) y = BN(d, 2) }", W | BN | batch_norm(4, "2"), "Conv", id="two"),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) y = BN(c) }",
        W | BN | {"gamma": np.array([0, 1, -2, 0], np.float32)},
        "Conv",
        id="gamma of zero",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,h,w] y) { a = Conv(x, w) b = BN(a) r = Relu(b)
        c = Conv<pads=[1,1,1,1]>(r, v) d = BN(c, 2) s = Add(d, b) y = Relu(s) }""",
        W | {"v": (4, 4, 3, 3)} | BN | batch_norm(4, "2"),
        "Conv Relu Conv Add Relu",
        id="a residual block",
    ),
]


@pytest.mark.parametrize(("text", "tensors", "left"), FOLDS)
def test_folds(text, tensors, left, tmp_path):
    folded, result = fold_and_check(model(text, **tensors), tmp_path)
    assert kinds(folded) == left.split()
    assert not result.plan.kept
    assert not unread(folded)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24])
def test_folds_in_every_opset(opset, tmp_path):
    text = IMAGE + "{ c = Conv(x, w) n = BN(c) r = Relu(n) p = MaxPool<kernel_shape=[2,2]>(r) y = BN(p, 2) }"
    proto = model(text, opset, ir_version=min(10, max(3, opset - 4)), **W, **BN, **batch_norm(4, "2"))
    if proto.ir_version < 4:
        declare_initializers(proto)
    folded, result = fold_and_check(proto, tmp_path)
    assert kinds(folded)[:2] == ["Conv", "Relu"]
    assert len(result.plan.folded) >= 1


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_folds_in_every_type(dtype, tmp_path):
    name = {"double": "float64"}.get(dtype, dtype)
    text = f"({dtype}[N,3] x) => ({dtype}[N,4] y) {{ c = Gemm(x, w, b) d = Mul(c, s) y = Add(d, t) }}"
    shapes = {"w": (3, 4), "b": (4,), "s": (4,), "t": (4,)}
    proto = model(text, **{key: numbers(key, shape, name) for key, shape in shapes.items()})
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Gemm"]
    assert {item.data_type for item in folded.graph.initializer} == {proto.graph.initializer[0].data_type}


def unread(proto):
    read = {name for node in proto.graph.node for name in node.input} | {item.name for item in proto.graph.output}
    return [item.name for item in proto.graph.initializer if item.name not in read]


def declare_initializers(proto):
    """Before IR version 4 every initializer is an input too."""
    from onnx import helper

    for item in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))


def test_a_weight_that_arithmetic_makes_is_written_in_its_own_type(tmp_path):
    proto = model("(float[N,3,8,8] x) => (float[N,4,h,w] y) { v = Mul(w, m) c = Conv(x, v) y = BN(c) }", **BN)
    for name, shape in (("w", (4, 3, 3, 3)), ("m", (4, 1, 1, 1))):
        proto.graph.initializer.append(numpy_helper.from_array(numbers(name, shape), name))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv"]


def test_one_number_passes_a_layer_that_works_along_another_axis(tmp_path):
    """The Einsum's weight stays as it is; the sign goes into the layer behind it."""
    text = """(float[2,5,4] x) => (float[2,3,4] y)
        { a = Neg(x) b = Einsum<equation="abi,oi->abo">(a, w) c = MatMul(v, b) y = BN(c) }"""
    folded, result = fold_and_check(model(text, w=(4, 4), v=(3, 5), **batch_norm(3)), tmp_path)
    assert result.plan.kept == ()
    assert kinds(folded) == ["Einsum", "MatMul", "Add"]


@pytest.mark.parametrize("opset", [9, 13])
def test_what_a_tensor_is_padded_with_follows_its_frame(opset, tmp_path):
    """An attribute up to opset 10, an operand after."""
    pad = "Pad<pads=[0,0,1,1,0,0,1,2], value=0.5>(c)" if opset < 11 else "Pad(c, p, v)"
    text = IMAGE + f"{{ c = Conv(x, w) a = {pad} y = Mul(a, s) }}"
    operands = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 2]), "v": np.array(0.5, np.float32)}
    proto = model(text, opset, **W, s=np.array(-3, np.float32), **(operands if opset > 10 else {}))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Conv", "Pad"]


def test_onnx_has_two_names_for_its_own_operators(tmp_path):
    """The long one is ONNX Runtime's; ONNX's own checker doesn't know it."""
    proto = model(IMAGE + "{ c = Conv(x, w) n = BN(c) y = Relu(n) }", **W, **BN)
    for item in (*proto.graph.node, *proto.opset_import):
        item.domain = "ai.onnx"
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(proto, source)
    fold_file(source, target)
    assert kinds(onnx.load(target)) == ["Conv", "Relu"]
    want, got = (run(path, feeds_of(proto))[0] for path in (source, target))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
