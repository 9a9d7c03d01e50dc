"""ONNX patterns: affines that stand behind other operators than the one that can take them."""

import numpy as np

from pattern_suite.onnx_building import bn, case, ints
from pattern_suite.onnx_linear import B, M, W

BACK = "back through other operators"


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
BOUNDS = np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1)
between("Conv, Max by channel, BN, gamma > 0", "d = Max(c, low)", positive=True, tensors={"low": -BOUNDS})
between(
    "Conv, Max and Min by channel, BN", "a = Max(c, low) d = Min(a, high)", tensors={"low": -BOUNDS, "high": BOUNDS}
)
