"""ONNX patterns: affines that are not next to the operator that can take them."""

import numpy as np

from pattern_suite.onnx_building import bn, case, ints
from pattern_suite.onnx_linear import COLUMN, IMAGE, B, M, W

BACK = "back through other operators"
FORWARD = "forward into the next operator"


def between(name: str, nodes: str, channels: int = 4, shape: str = "N,4,h,w", **options: object) -> None:
    """Register Conv -> c, `nodes` from c to d, BN, Relu."""
    tensors = options.pop("tensors", {})
    text = f"(float[N,3,8,8] x) => (float[{shape}] y) {{ c = Conv(x, w) {nodes} e = BN(d) y = Relu(e) }}"
    case(BACK, name, text, W, bn(channels), tensors, **options)  # type: ignore[arg-type]


between("Conv, Reshape, BN", "d = Reshape(c, s)", shape="N,4,36", tensors={"s": ints(0, 4, 36)})
between(
    "Conv, Reshape that merges the channels, BN",
    "d = Reshape(c, s)",
    8,
    "N,8,18",
    tensors={"s": ints(0, 8, 18)},
    note="two of the BN's channels in one of the Conv's",
    least=1,
)
between("Conv, GlobalAveragePool, Flatten, BN", "p = GlobalAveragePool(c) d = Flatten(p)", shape="N,4")
between("Conv, Squeeze, BN", "p = GlobalAveragePool(c) d = Squeeze(p, s)", shape="N,4", tensors={"s": ints(2, 3)})
between("Conv, Unsqueeze, BN", "d = Unsqueeze(c, s)", shape="N,4,h,w,1", tensors={"s": ints(4)})
between("Conv, AveragePool, BN", "d = AveragePool<kernel_shape=[2,2]>(c)")
between("Conv, padded AveragePool, BN", "d = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1]>(c)")
between(
    "Conv, AveragePool that counts its padding, BN",
    "d = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1], count_include_pad=1>(c)",
    least=1,
    note="the border needs another shift",
)
between("Conv, ReduceMean, BN", "d = ReduceMean<axes=[2,3], keepdims=0>(c)", shape="N,4")
between("Conv, ReduceSum, BN", "d = ReduceSum<keepdims=0>(c, a)", shape="N,4", tensors={"a": ints(2, 3)})
between("Conv, MaxPool, BN, gamma > 0", "d = MaxPool<kernel_shape=[2,2]>(c)", positive=True)
between(
    "Conv, MaxPool, BN, gamma of both signs",
    "d = MaxPool<kernel_shape=[2,2]>(c)",
    least=1,
    note="a negative s makes the greatest the least",
)
between("Conv, Relu, BN, gamma > 0", "d = Relu(c)", positive=True, least=1, note="s could go back, t can't")
between(
    "Conv, Slice of the channels, BN",
    "d = Slice(c, from, to, axis)",
    2,
    "N,2,h,w",
    tensors={"from": ints(1), "to": ints(3), "axis": ints(1)},
)
between(
    "Conv, crop, BN", "d = Slice(c, from, to, axis)", tensors={"from": ints(1, 1), "to": ints(5, 5), "axis": ints(2, 3)}
)
between("Conv, Gather of channels, BN", "d = Gather<axis=1>(c, i)", 3, "N,3,h,w", tensors={"i": ints(3, 0, 2)})
between("Conv, Transpose to NHWC and back, BN", "t = Transpose<perm=[0,2,3,1]>(c) d = Transpose<perm=[0,3,1,2]>(t)")
between(
    "Conv, channel shuffle, BN",
    "r = Reshape(c, s) t = Transpose<perm=[0,2,1,3,4]>(r) d = Reshape(t, u)",
    tensors={"s": ints(0, 2, 2, 6, 6), "u": ints(0, 4, 6, 6)},
)
between("Conv, DepthToSpace, BN", 'd = DepthToSpace<blocksize=2, mode="CRD">(c)', 1, "N,1,h,w")
between(
    "Conv, nearest Resize, BN", 'd = Resize<mode="nearest">(c, , k)', tensors={"k": np.array([1, 1, 2, 2], np.float32)}
)
between(
    "Conv, linear Resize, BN", 'd = Resize<mode="linear">(c, , k)', tensors={"k": np.array([1, 1, 2, 2], np.float32)}
)
between("Conv, reflecting Pad, BN", 'd = Pad<mode="reflect">(c, p)', tensors={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)})
between(
    "Conv, Pad with zeros, BN",
    "d = Pad(c, p)",
    tensors={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    least=1,
    note="zeros become t, another number in each channel",
)
between(
    "Conv, Concat with another Conv, BN",
    "e2 = Conv(x, v) d = Concat<axis=1>(c, e2)",
    6,
    "N,6,h,w",
    tensors={"v": (2, 3, 3, 3)},
)
between(
    "Conv, Concat with the input, BN",
    "z = Slice(x, from, to, axis) d = Concat<axis=1>(c, z)",
    7,
    "N,7,h,w",
    least=1,
    note="nothing can take the input's part",
    tensors={"from": ints(1, 1), "to": ints(7, 7), "axis": ints(2, 3)},
)
between("Conv, Concat along the width, BN", "e2 = Conv(x, v) d = Concat<axis=3>(c, e2)", tensors={"v": (4, 3, 3, 3)})
between("Conv, Add of another Conv, BN", "e2 = Conv(x, v) d = Add(c, e2)", tensors={"v": (4, 3, 3, 3)})
between("Conv, Sub of another Conv, BN", "e2 = Conv(x, v) d = Sub(c, e2)", tensors={"v": (4, 3, 3, 3)})
between(
    "Conv, Sum of three Convs, BN",
    "e2 = Conv(x, v) e3 = Conv(x, u) d = Sum(c, e2, e3)",
    tensors={"v": (4, 3, 3, 3), "u": (4, 3, 3, 3)},
)
case(
    BACK,
    "Conv, Split, BN on one half",
    "(float[N,3,8,8] x) => (float[N,2,6,6] y, float[N,2,6,6] z)"
    "{ c = Conv(x, w) d, e = Split<axis=1>(c) y = BN(d) z = Sigmoid(e) }",
    W,
    bn(2),
)
case(
    BACK,
    "MatMul, Transpose, BN, sizes that coincide",
    "(float[N,4,3] x) => (float[N,4,4] y){ c = MatMul(x, w) d = Transpose<perm=[0,2,1]>(c) y = BN(d) }",
    M,
    bn(4),
    least=1,
    note="MatMul has no bias, so that an Add would stay in the BN's place",
)
case(
    BACK,
    "MatMul, Add, Transpose, BN",
    "(float[N,7,3] x) => (float[N,4,7] y){ c = MatMul(x, w) d = Add(c, b) e = Transpose<perm=[0,2,1]>(d) y = BN(e) }",
    M,
    B,
    bn(4),
)
case(
    BACK,
    "MatMul, Reshape, BN, sizes that coincide",
    "(float[2,4,3] x) => (float[2,4,2,2] y){ c = MatMul(x, w) d = Reshape(c, s) y = BN(d) }",
    M,
    bn(4),
    {"s": ints(2, 4, 2, 2)},
    least=1,
    note="the BN's channels are the MatMul's rows",
)
case(
    BACK,
    "MatMul of matrices, Transpose, BN, N == C",
    "(float[4,3] x) => (float[4,4] y){ c = MatMul(x, w) d = Transpose<perm=[1,0]>(c) y = BN(d) }",
    M,
    bn(4),
    least=1,
    note="the BN's channels are the MatMul's rows",
)
case(
    BACK,
    "MatMul of matrices, Reshape, BN, sizes that coincide",
    "(float[2,3] x) => (float[1,4,2] y){ c = MatMul(x, w) d = Reshape(c, s) y = BN(d) }",
    M,
    bn(4),
    {"s": ints(1, 4, 2)},
    least=1,
    note="the BN's channels hold several of the MatMul's",
)
case(
    BACK,
    "Gemm, Reshape, BN",
    "(float[N,3] x) => (float[N,2,2,2] y) { c = Gemm(x, w, b) d = Reshape(c, s) y = BN(d) }",
    {"w": (3, 8), "b": (8,), "s": ints(0, 2, 2, 2)},
    bn(2),
)
case(
    BACK,
    "MatMul, Add, Reshape to tokens, BN",
    "(float[2,5,3] x) => (float[10,4] y){ c = MatMul(x, w) d = Add(c, b) e = Reshape(d, s) y = BN(e) }",
    M,
    B,
    {"s": ints(10, 4)},
    bn(4),
)
case(
    BACK,
    "NHWC: MatMul, Add, Transpose, BN, Transpose",
    "(float[N,5,5,3] x) => (float[N,5,5,4] y)"
    "{ c = MatMul(x, w) d = Add(c, b) e = Transpose<perm=[0,3,1,2]>(d) f = BN(e) y = Transpose<perm=[0,2,3,1]>(f) }",
    M,
    B,
    bn(4),
)

case(FORWARD, "BN, Conv", IMAGE + "{ d = BN(x) y = Conv(d, w, b) }", W, B, bn(3))
case(
    FORWARD,
    "BN, Conv with groups",
    "(float[N,4,8,8] x) => (float[N,6,6,6] y) { d = BN(x) y = Conv<group=2>(d, w) }",
    {"w": (6, 2, 3, 3)},
    bn(4),
)
case(
    FORWARD,
    "BN, depthwise Conv",
    "(float[N,4,8,8] x) => (float[N,4,6,6] y) { d = BN(x) y = Conv<group=4>(d, w) }",
    {"w": (4, 1, 3, 3)},
    bn(4),
)
case(
    FORWARD,
    "BN, zero-padded Conv",
    IMAGE + "{ d = BN(x) y = Conv<pads=[1,1,1,1]>(d, w, b) }",
    W,
    B,
    bn(3),
    least=1,
    note="the border needs another shift",
)
case(
    FORWARD,
    "BN, Conv auto_pad SAME_UPPER",
    IMAGE + '{ d = BN(x) y = Conv<auto_pad="SAME_UPPER">(d, w, b) }',
    W,
    B,
    bn(3),
    least=1,
    note="the border needs another shift",
)
case(
    FORWARD,
    "BN with shift 0, zero-padded Conv",
    IMAGE + "{ d = BN(x) y = Conv<pads=[1,1,1,1]>(d, w, b) }",
    W,
    B,
    bn(3) | {"beta": np.zeros(3, np.float32), "mean": np.zeros(3, np.float32)},
)
case(FORWARD, "Relu, BN, Conv", IMAGE + "{ c = Relu(x) d = BN(c) y = Conv(d, w, b) }", W, B, bn(3))
case(
    FORWARD,
    "BN, reflecting Pad, Conv",
    IMAGE + '{ d = BN(x) p = Pad<mode="reflect">(d, k) y = Conv(p, w, b) }',
    W,
    B,
    bn(3),
    {"k": ints(0, 0, 1, 1, 0, 0, 1, 1)},
)
case(
    FORWARD,
    "BN, zero Pad, Conv",
    IMAGE + "{ d = BN(x) p = Pad(d, k) y = Conv(p, w, b) }",
    W,
    B,
    bn(3),
    {"k": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    note="the Pad can pad with another number only if it is one for all",
    least=1,
)
case(
    FORWARD,
    "BN, ConvTranspose",
    "(float[N,3,5,5] x) => (float[N,4,h,w] y) { d = BN(x) y = ConvTranspose(d, w) }",
    {"w": (3, 4, 3, 3)},
    bn(3),
    least=1,
    note="a shift isn't spread evenly",
)
case(
    FORWARD,
    "Mul, ConvTranspose",
    "(float[N,3,5,5] x) => (float[N,4,h,w] y) { d = Mul(x, s) y = ConvTranspose(d, w) }",
    {"w": (3, 4, 3, 3), "s": (3, 1, 1)},
)
case(FORWARD, "BN, Gemm", "(float[N,3] x) => (float[N,4] y) { d = BN(x) y = Gemm(d, w, b) }", M, B, bn(3))
case(
    FORWARD,
    "BN, Gemm beta 2",
    "(float[N,3] x) => (float[N,4] y) { d = BN(x) y = Gemm<beta=2.0>(d, w, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, MatMul, Add",
    "(float[N,3] x) => (float[N,4] y) { d = BN(x) e = MatMul(d, w) y = Add(e, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, three MatMuls (q, k, v)",
    "(float[N,3] x) => (float[N,4] q, float[N,4] k, float[N,4] v)"
    "{ d = BN(x) a = MatMul(d, w1) q = Add(a, b1) e = MatMul(d, w2) k = Add(e, b2) f = MatMul(d, w3) v = Add(f, b3) }",
    {"w1": (3, 4), "w2": (3, 4), "w3": (3, 4), "b1": (4,), "b2": (4,), "b3": (4,)},
    bn(3),
)
case(
    FORWARD,
    "BN, two Convs",
    "(float[N,3,8,8] x) => (float[N,4,h,w] y, float[N,2,h,w] z){ d = BN(x) y = Conv(d, w) z = Conv(d, v) }",
    W,
    {"v": (2, 3, 1, 1)},
    bn(3),
)
case(
    FORWARD,
    "BN, GlobalAveragePool, Flatten, Gemm",
    "(float[N,3,8,8] x) => (float[N,4] y){ d = BN(x) p = GlobalAveragePool(d) f = Flatten(p) y = Gemm(f, w, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, Flatten, Gemm",
    "(float[N,3,4,4] x) => (float[N,4] y) { d = BN(x) f = Flatten(d) y = Gemm(f, w, b) }",
    {"w": (48, 4)},
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, MaxPool, Conv, gamma > 0",
    IMAGE + "{ d = BN(x) p = MaxPool<kernel_shape=[2,2]>(d) y = Conv(p, w, b) }",
    W,
    B,
    bn(3),
    positive=True,
)
case(
    FORWARD,
    "BN, Concat with the input, Conv",
    IMAGE + "{ d = BN(x) p = Concat<axis=1>(d, x) y = Conv(p, w, b) }",
    {"w": (4, 6, 3, 3)},
    B,
    bn(3),
)
case(
    FORWARD,
    "BN, Transpose, MatMul",
    "(float[N,3,7] x) => (float[N,7,4] y){ d = BN(x) t = Transpose<perm=[0,2,1]>(d) e = MatMul(t, w) y = Add(e, b) }",
    M,
    B,
    bn(3),
)
case(
    FORWARD,
    "DequantizeLinear, Mul",
    "(uint8[N,4,5,5] x) => (float[N,4,5,5] y){ d = DequantizeLinear(x, k, z) y = Mul(d, s) }",
    {"k": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "s": COLUMN},
    note="into its scale, by channel",
    opset=17,
)
