"""Which of torch's functions are linear in their input, with a constant weight, and with which one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnfold.checking.linear_forms import Form, Term, Window
from bnfold.checking.measures import Array

_CONV = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_TRANSPOSED = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}
_POOL = {"avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3}
_DROPOUT = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
_ARITHMETIC = {"add", "sub", "mul", "div", "rsub", "radd", "rmul", "iadd", "isub", "imul", "itruediv", "truediv",
               "true_divide", "subtract", "multiply", "divide"}  # fmt: skip
Varies = Callable[[Tensor], bool]


@dataclass(frozen=True, eq=False)
class Linear:
    """W x + b. weight: (out, in / groups, *kernel); parameter: the tensor that the model stores it in."""

    x: Tensor
    axis: int
    weight: Array
    bias: Array | None
    groups: int
    window: Window
    parameter: Tensor | None

    def form(self, root: int, layer: int, window: Window, dtype: str) -> Form:
        """The result in terms of `root`."""
        out = len(self.weight)
        term = Term(layer, self.weight, self.groups, window, np.ones(out), dtype, self.parameter is None)
        bias = np.zeros(out) if self.bias is None else self.bias
        return Form(root, self.axis, (term,), bias, np.abs(bias))


@dataclass(frozen=True, eq=False)
class Affine:
    """scale * x + shift along `axis`; axis None: one number for all. size: the largest term of the shift."""

    x: Tensor
    axis: int | None
    scale: Array
    shift: Array
    size: Array | None = None


@dataclass(frozen=True, eq=False)
class Sum:
    """x + sign * y."""

    x: Tensor
    y: Tensor
    sign: float


@dataclass(frozen=True, eq=False)
class Padded:
    """x with zeros around its spatial axes, (begin, end) by axis; negative ones cut."""

    x: Tensor
    pads: tuple[tuple[int, int], ...]


def recognised(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], varies: Varies) -> object:
    """Read a call whose input varies and whose weights don't; None for any other."""
    plain = name.strip("_")
    if "input" in kwargs:
        args, kwargs = (kwargs["input"], *args), {key: value for key, value in kwargs.items() if key != "input"}
    if plain in _CONV:
        return _conv(_CONV[plain], varies, *args, **kwargs)
    if plain in _TRANSPOSED:
        return _transposed(_TRANSPOSED[plain], varies, *args, **kwargs)
    if plain == "linear":
        return _linear(varies, *args, **kwargs)
    if plain in ("matmul", "mm", "rmatmul") and len(args) == 2:
        return _product(varies, *(reversed(args) if plain == "rmatmul" else args))
    if plain == "addmm" and len(args) == 3 and not kwargs:
        bias, x, weight = args
        return _linear(varies, x, weight.T, bias) if bias.ndim == 1 else None
    if plain == "batch_norm":
        return _batch_norm(varies, *args, **kwargs)
    if plain in ("neg", "negative") and len(args) == 1:
        return Affine(args[0], None, -np.ones(1), np.zeros(1))
    if plain in _DROPOUT:
        training = kwargs.get("training", args[2] if len(args) > 2 else True)
        return None if training else Affine(args[0], None, np.ones(1), np.zeros(1))
    if plain == "instance_norm":
        return _instance_norm(varies, *args, **kwargs)
    if plain == "pad":
        return _pad(*args, **kwargs)
    if plain in _POOL:
        return _pool(_POOL[plain], *args, **kwargs)
    if plain in _ARITHMETIC and len(args) == 2:
        return _arithmetic(plain, args[0], args[1], kwargs, varies)
    return None


def _numbers(tensor: Tensor) -> Array:
    return np.array(tensor.detach().double().numpy())


def _all(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) * (rank if len(value) == 1 else 1) if isinstance(value, (tuple, list)) else (value,) * rank


def _conv(
    rank: int, varies: Varies, x: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Linear | None:  # fmt: skip
    if varies(weight) or (bias is not None and varies(bias)) or x.ndim != rank + 2:
        return None
    dilations = _all(dilation, rank)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        begins = tuple(total // 2 for total in totals)
        ends = tuple(total - total // 2 for total in totals)
    else:
        begins = ends = _all(0 if padding == "valid" else padding, rank)
    window = Window(_all(stride, rank), dilations, begins, ends)
    return Linear(x, 1, _numbers(weight), None if bias is None else _numbers(bias), groups, window, weight)


def _transposed(
    rank: int, varies: Varies, x: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Linear | None:  # fmt: skip
    if varies(weight) or (bias is not None and varies(bias)) or x.ndim != rank + 2:
        return None
    begins, extra = _all(padding, rank), _all(output_padding, rank)
    ends = tuple(a - b for a, b in zip(begins, extra, strict=True))
    window = Window(_all(stride, rank), _all(dilation, rank), begins, ends, True)
    rows = rows_first(_numbers(weight), groups)
    return Linear(x, 1, rows, None if bias is None else _numbers(bias), groups, window, weight)


def rows_first(weight: Array, groups: int) -> Array:
    """(in, out / groups, *kernel) of a transposed convolution -> (out, in / groups, *kernel)."""
    blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return np.concatenate([block.swapaxes(0, 1) for block in blocks])


def _linear(varies: Varies, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Linear | None:
    if varies(weight) or weight.ndim != 2 or (bias is not None and varies(bias)):
        return None
    return Linear(x, x.ndim - 1, _numbers(weight), None if bias is None else _numbers(bias), 1, Window(), weight)


def _product(varies: Varies, x: Tensor, weight: Tensor) -> Linear | None:
    """x @ weight, whose parameter is what it was transposed from."""
    if varies(weight) or weight.ndim != 2 or not varies(x):
        return None
    return Linear(x, x.ndim - 1, _numbers(weight).T, None, 1, Window(), weight)


def _pool(
    rank: int, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Linear | None:  # fmt: skip
    sizes, pads = _all(kernel_size, rank), _all(padding, rank)
    if ceil_mode or (any(pads) and not count_include_pad) or divisor_override or x.ndim != rank + 2:
        return None
    strides = sizes if stride is None or stride == [] or stride == () else _all(stride, rank)
    weight = np.full((x.shape[1], 1, *sizes), 1 / np.prod(sizes))
    return Linear(x, 1, weight, None, x.shape[1], Window(strides, (1,) * rank, pads, pads), None)


def _batch_norm(
    varies: Varies, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Affine | None:  # fmt: skip
    if training or running_mean is None or running_var is None or varies(running_mean):
        return None
    scale = (running_var.double() + eps) ** -0.5
    scale = scale if weight is None else scale * weight
    terms = [-running_mean * scale, *([] if bias is None else [bias])]
    size = torch.stack(terms).abs().amax(0)
    return Affine(x, 1, _numbers(scale), _numbers(torch.stack(terms).sum(0)), _numbers(size))


def _instance_norm(
    varies: Varies, x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Affine | None:  # fmt: skip
    return _batch_norm(varies, x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _pad(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Padded | None:
    pairs = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)][::-1]
    spatial = x.ndim - 2
    if mode != "constant" or value or spatial < 1 or len(pairs) > spatial:
        return None
    return Padded(x, (*[(0, 0)] * (spatial - len(pairs)), *pairs))


def _arithmetic(name: str, a: Any, b: Any, kwargs: dict[str, Any], varies: Varies) -> Affine | Sum | None:
    if name in ("rsub", "radd", "rmul"):
        a, b = b, a
    kind = {"a": "add", "s": "sub", "m": "mul", "t": "div", "d": "div"}[name.lstrip("ri")[0]]
    first, second = (isinstance(part, Tensor) and varies(part) for part in (a, b))
    alpha = float(kwargs.get("alpha", 1.0))
    if first and second:
        if kind not in ("add", "sub") or a.shape != b.shape:
            return None
        return Sum(a, b, alpha if kind == "add" else -alpha)
    x, constant = (a, b) if first else (b, a)
    laid = _along_one_axis(constant, x)
    if laid is None or not isinstance(x, Tensor) or (kind == "div" and not first):
        return None
    axis, numbers = laid
    one, zero = np.ones(1), np.zeros(1)
    if kind == "mul":
        return Affine(x, axis, numbers, zero)
    if kind == "div":
        return Affine(x, axis, 1 / numbers, zero) if np.all(numbers) else None
    if kind == "add":
        return Affine(x, axis, one, alpha * numbers) if first else Affine(x, axis, alpha * one, numbers)
    return Affine(x, axis, one, -alpha * numbers) if first else Affine(x, axis, -alpha * one, numbers)


def _along_one_axis(constant: Any, x: Tensor) -> tuple[int | None, Array] | None:
    """Give the axis of x along which a constant varies, and its numbers; None where there are several."""
    if not isinstance(constant, Tensor):
        return (None, np.array([float(constant)])) if isinstance(constant, (int, float)) else None
    if not constant.is_floating_point() or np.broadcast_shapes(constant.shape, x.shape) != tuple(x.shape):
        return None
    wide = [x.ndim - constant.ndim + i for i, size in enumerate(constant.shape) if size > 1]
    if len(wide) > 1:
        return None
    return (wide[0] if wide else None), _numbers(constant).reshape(-1)
