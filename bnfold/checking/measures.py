"""One side of a comparison, measured against the truth sample by sample, in constant memory."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.checking.result import Bin, Measures

Array = np.ndarray[Any, Any]

_PRECISION = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}
LARGEST = {"float16": 65504.0, "bfloat16": (2 - 2.0**-7) * 2.0**127, "float32": (2 - 2.0**-23) * 2.0**127}
_ULP_EDGES = np.array([0.0, *(2.0**k for k in range(-1, 25)), math.inf])
_LOG_EDGES = np.array([-math.inf, *np.arange(-18.0, 2.5, 0.5), math.inf])
_TOP = 5


def ulp(truth: Array, dtype: str) -> Array:
    """Give the distance between neighbours of `dtype` around `truth` (float64, any shape)."""
    bits, least = _PRECISION[dtype]
    _, exponent = np.frexp(np.abs(truth))
    spacing: Array = np.ldexp(1.0, np.maximum(exponent - 1, least) - (bits - 1))
    return spacing


@dataclass
class Side:
    """Running figures of one side; `add` takes one sample at a time."""

    dtype: str
    square: float = 0.0
    truth_square: float = 0.0
    own_square: float = 0.0
    product: float = 0.0
    count: int = 0
    peak: float = 0.0
    truth_peak: float = 0.0
    nan: int = 0
    inf: int = 0
    ulp_counts: Array = field(default_factory=lambda: np.zeros(len(_ULP_EDGES) - 1, np.int64))
    log_counts: Array = field(default_factory=lambda: np.zeros(len(_LOG_EDGES) - 1, np.int64))
    rows: int = 0
    row_hits: int = 0
    top: int = 0
    top_hits: int = 0

    def add(self, truth: Array, value: Array, finite: Array) -> None:
        """Take in one sample: `truth` and `value` in float64, of one shape; figures are of the elements in `finite`."""
        self.nan += int(np.isnan(value).sum())
        self.inf += int(np.isinf(value).sum())
        t, v = truth[finite], value[finite]
        if not t.size:
            return
        error = np.abs(v - t)
        self.square += float(error @ error)
        self.truth_square += float(t @ t)
        self.own_square += float(v @ v)
        self.product += float(t @ v)
        self.count += t.size
        self.peak = max(self.peak, float(error.max()))
        self.truth_peak = max(self.truth_peak, float(np.abs(t).max()))
        self.ulp_counts += np.histogram(error / ulp(t, self.dtype), _ULP_EDGES)[0]
        self._add_logs(error, math.sqrt(float(t @ t) / t.size))

    def _add_logs(self, error: Array, scale: float) -> None:
        exact = error == 0
        with np.errstate(divide="ignore"):  # what is so far below the scale goes into the lowest bin
            logs = np.log10(error[~exact] / (scale or 1.0))
        self.log_counts[0] += int(exact.sum())
        self.log_counts[1:] += np.histogram(np.clip(logs, _LOG_EDGES[1], None), _LOG_EDGES[1:])[0]

    def add_ranks(self, truth: Array, value: Array, budget: float) -> None:
        """Take in the order along axis 1, where the truth's first two differ by more than twice `budget`."""
        if truth.ndim < 2 or truth.shape[1] < 2:
            return
        t, v = (np.moveaxis(a, 1, -1).reshape(-1, a.shape[1]) for a in (truth, value))
        order = np.argsort(t, axis=1)
        margin = np.take_along_axis(t, order[:, -1:], 1) - np.take_along_axis(t, order[:, -2:-1], 1)
        clear = margin[:, 0] > 2 * budget
        self.rows += int(clear.sum())
        self.row_hits += int((v.argmax(1) == order[:, -1])[clear].sum())
        if t.shape[1] > _TOP:
            ours, theirs = np.argsort(v, axis=1)[:, -_TOP:], order[:, -_TOP:]
            self.top += ours.size
            self.top_hits += int((ours[:, :, None] == theirs[:, None, :]).sum())

    @property
    def rms(self) -> float:
        """Root mean square of the error; NaN where nothing was compared."""
        return math.sqrt(self.square / self.count) if self.count else math.nan

    @property
    def scale(self) -> float:
        """Root mean square of the truth."""
        return math.sqrt(self.truth_square / self.count) if self.count else math.nan

    def measures(self) -> Measures:
        """Give the figures."""
        norms = math.sqrt(self.truth_square * self.own_square)
        relative = math.sqrt(self.square / self.truth_square) if self.truth_square else _ratio(self.square, 0.0)
        return Measures(
            max_abs=self.peak,
            max_rel=_ratio(self.peak, self.truth_peak),
            rms=self.rms,
            rel_l2=relative,
            cosine=self.product / norms if norms else math.nan,
            snr_db=-20 * math.log10(relative) if relative else math.inf,
            ulp=_bins(_ULP_EDGES, self.ulp_counts),
            error_log10=_bins(_LOG_EDGES, self.log_counts),
            argmax=self.row_hits / self.rows if self.rows else None,
            top5=self.top_hits / self.top if self.top else None,
            nan=self.nan,
            inf=self.inf,
        )


def _ratio(part: float, whole: float) -> float:
    if whole:
        return part / whole
    return math.inf if part else 0.0


def _bins(edges: Array, counts: Array) -> tuple[Bin, ...]:
    return tuple(
        Bin(float(low), float(high), int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    )
