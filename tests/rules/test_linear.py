import numpy as np
import pytest

from bnfold.ops import Conv, ConvTranspose, Einsum, Gemm, Linear, MatMul
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT, SIGN
from tests.rules.law import Case, law_tests

rng = np.random.default_rng(0)
ALL = "x0.scale x0.sign x0.shift y0.scale y0.sign y0.shift"
NO_SHIFT = ALL.replace("x0.shift ", "")
ON_WEIGHT_LEFT = ALL.replace("x0", "x1")
PASSES = "x0.scale x0.sign y0.scale y0.sign"


def const(*shape):
    return rng.normal(size=shape)


def conv(*pads, groups=1, rank=2, **kwargs):
    return Conv((1,) * rank, (1,) * rank, pads or ((0, 0),) * rank, groups, **kwargs)


def transposed(groups=1, rank=2, stride=2):
    return ConvTranspose((stride,) * rank, (1,) * rank, ((1, 0),) * rank, (1,) * rank, groups)


X, X1D, X3D = (2, 4, 6, 5), (2, 4, 7), (1, 2, 4, 3, 4)
SAME = Conv((1, 1), (1, 1), None)
HOLDS = [
    pytest.param(Case(conv(), (X, const(6, 4, 3, 3), const(6))), 1, ALL, id="conv"),
    pytest.param(Case(conv(), (X, const(6, 4, 3, 3))), 1, ALL, id="conv without bias"),
    pytest.param(Case(conv(), (X, const(6, 4, 1, 1), None)), 1, ALL, id="conv 1x1, empty bias"),
    pytest.param(Case(conv(groups=2), (X, const(6, 2, 3, 2), const(6))), 1, ALL, id="grouped conv"),
    pytest.param(Case(conv(groups=4), (X, const(4, 1, 3, 3))), 1, ALL, id="depthwise conv"),
    pytest.param(Case(conv(groups=4), (X, const(12, 1, 3, 3))), 1, ALL, id="depthwise conv with multiplier"),
    pytest.param(Case(Conv((2, 3), (2, 1), ((0, 0), (0, 0))), (X, const(3, 4, 2, 3))), 1, ALL, id="strided, dilated"),
    pytest.param(Case(conv(rank=1), (X1D, const(3, 4, 3), const(3))), 1, ALL, id="conv 1-D"),
    pytest.param(Case(conv(rank=3, groups=2), (X3D, const(4, 1, 2, 2, 2), const(4))), 1, ALL, id="conv 3-D"),
    pytest.param(Case(conv((1, 2), (0, 1)), (X, const(6, 4, 3, 3), const(6))), 1, NO_SHIFT, id="zero padding"),
    pytest.param(Case(SAME, (X, const(6, 4, 3, 3))), 1, NO_SHIFT, id="SAME padding"),
    *(
        pytest.param(Case(conv((1, 2), (2, 1), pad_mode=mode), (X, const(3, 4, 3, 3))), 1, ALL, id=f"{mode} padding")
        for mode in ("reflect", "replicate", "circular")
    ),
    pytest.param(Case(conv((1, 1), (1, 1)), (X, const(4, 4, 3, 3))), 0, PASSES, id="conv, batch axis, no bias"),
    pytest.param(Case(transposed(), (X, const(4, 6, 3, 2), const(6))), 1, NO_SHIFT, id="transposed conv"),
    pytest.param(Case(transposed(), (X, const(4, 4, 3, 2))), 1, NO_SHIFT, id="transposed conv, in == out"),
    pytest.param(Case(transposed(2), (X, const(4, 3, 2, 3), const(6))), 1, NO_SHIFT, id="grouped transposed conv"),
    pytest.param(Case(transposed(4), (X, const(4, 1, 3, 3))), 1, NO_SHIFT, id="depthwise transposed conv"),
    pytest.param(Case(transposed(2, 1), (X1D, const(4, 2, 3))), 1, NO_SHIFT, id="transposed conv 1-D"),
    pytest.param(Case(transposed(2, 3), (X3D, const(2, 3, 2, 2, 2))), 1, NO_SHIFT, id="transposed conv 3-D"),
    pytest.param(Case(transposed(), (X, const(4, 4, 3, 2))), 0, PASSES, id="transposed conv, batch axis"),
    pytest.param(Case(Linear(), ((3, 4), const(5, 4), const(5))), 1, ALL, id="linear"),
    pytest.param(Case(Linear(), ((2, 3, 4), const(5, 4))), 2, ALL, id="linear on three axes"),
    pytest.param(Case(Linear(), ((4,), const(5, 4), const(5))), 0, ALL, id="linear on a vector"),
    pytest.param(Case(Linear(), ((2, 5, 5), const(5, 5))), 1, PASSES, id="linear over L, BN on C == L, no bias"),
    pytest.param(Case(Gemm(), ((3, 4), const(4, 5), const(5))), 1, ALL, id="gemm"),
    pytest.param(
        Case(Gemm(2.0, -0.5, True, True), ((4, 3), const(5, 4), const(1, 5))), 0, ALL, id="gemm, both transposed"
    ),
    pytest.param(Case(Gemm(0.3, 3.0), ((3, 4), const(4, 5), const(3, 5))), 1, ALL, id="gemm, a bias for every element"),
    pytest.param(Case(Gemm(1.5, 2.0), ((3, 4), const(4, 5), const(1))), 1, ALL, id="gemm, one number as bias"),
    pytest.param(Case(Gemm(1.5, 0.0), ((3, 4), const(4, 5), const(5))), 1, ALL, id="gemm, beta 0"),
    pytest.param(Case(Gemm(1.5), ((3, 4), const(4, 5))), 0, PASSES, id="gemm, rows"),
    pytest.param(
        Case(Gemm(0.5, 2.0), (const(5, 4), (4, 3), const(5, 1))), 0, ON_WEIGHT_LEFT, id="gemm, weight on the left"
    ),
    pytest.param(
        Case(Gemm(0.5, 2.0, True, True), (const(4, 5), (3, 4), const(3))), 1, ON_WEIGHT_LEFT, id="gemm, all turned"
    ),
    pytest.param(Case(MatMul(), ((2, 3, 4), const(4, 5))), 2, ALL, id="matmul"),
    pytest.param(Case(MatMul(), ((2, 3, 4), const(4, 5), const(5))), 2, ALL, id="matmul with bias"),
    pytest.param(Case(MatMul(), ((4,), const(4, 5))), 0, ALL, id="vector matmul"),
    pytest.param(Case(MatMul(), ((2, 3, 4), const(4, 3))), 1, PASSES, id="matmul, rows"),
    pytest.param(Case(MatMul(), (const(5, 4), (2, 4, 3))), 1, ON_WEIGHT_LEFT, id="weight on the left"),
    pytest.param(
        Case(MatMul(), (const(5, 4), (2, 4, 3), const(5, 1))), 1, ON_WEIGHT_LEFT, id="weight on the left, with bias"
    ),
    pytest.param(Case(MatMul(), (const(5, 4), (4,))), 0, ON_WEIGHT_LEFT, id="weight on the left of a vector"),
    pytest.param(
        Case(MatMul(), (const(4, 4), (2, 4, 3))), 2, PASSES.replace("x0", "x1"), id="weight on the left, columns"
    ),
    pytest.param(Case(MatMul(), ((2, 3, 4), const(2, 4, 5))), 2, NO_SHIFT, id="a weight for every batch"),
    pytest.param(Case(MatMul(), ((2, 3, 4), const(1, 4, 5))), 2, ALL, id="a weight with an empty batch"),
    pytest.param(Case(MatMul(), ((2, 3, 4), const(2, 4, 5))), 0, PASSES, id="a weight for every batch, batch axis"),
    pytest.param(Case(Einsum("bij,jk->bik"), ((2, 3, 4), const(4, 5))), 2, ALL, id="einsum"),
    pytest.param(Case(Einsum("oi,bit->bot"), (const(5, 4), (2, 4, 3))), 1, ON_WEIGHT_LEFT, id="einsum, weight first"),
    pytest.param(Case(Einsum("...c, dc -> ...d"), ((2, 3, 4), const(5, 4))), 2, ALL, id="einsum with dots"),
    pytest.param(Case(Einsum("ij,jk"), ((3, 4), const(4, 5))), 1, ALL, id="einsum, implied output"),
    pytest.param(Case(Einsum("bhi,hij->bhj"), ((2, 3, 4), const(3, 4, 5))), 2, NO_SHIFT, id="einsum, heads"),
    pytest.param(Case(Einsum("bij,jk->bik"), ((2, 3, 4), const(4, 5))), 1, PASSES, id="einsum, rows"),
]
PADDED = Case(conv((0, 0), (0, 1)), (X, const(6, 4, 3, 3)))
STOPS = [
    pytest.param(PADDED, 1, SHIFT, Why.PADDING, id="a shift, zero padding"),
    pytest.param(Case(SAME, (X, const(4, 4, 3, 3))), 1, SHIFT, Why.PADDING, id="a shift, SAME padding"),
    pytest.param(Case(transposed(), (X, const(4, 6, 3, 2))), 1, SHIFT, Why.TRANSPOSED, id="a shift, transposed conv"),
    pytest.param(PADDED, 0, SHIFT, Why.AXIS, id="a shift along the batch"),
    pytest.param(PADDED, 3, SCALE, Why.AXIS, id="columns"),
    pytest.param(PADDED, 3, SIGN, Why.AXIS, id="columns, signs"),
    pytest.param(Case(conv(), (X, const(4, 4, 3, 3), const(4))), 0, SCALE, Why.AXIS, id="batch axis, with a bias"),
    pytest.param(Case(Linear(), ((2, 5, 5), const(5, 5), const(5))), 1, SCALE, Why.AXIS, id="BN on C == L, a bias"),
    pytest.param(Case(Linear(), ((2, 5, 5), const(5, 5))), 1, SHIFT, Why.AXIS, id="BN on C == L, a shift"),
    pytest.param(Case(conv(), (X, (6, 4, 3, 3))), 1, SCALE, Why.COMPUTED, id="conv, computed weight"),
    pytest.param(Case(conv(), (X, const(6, 4, 3, 3), (6,))), 1, SHIFT, Why.COMPUTED, id="conv, computed bias"),
    pytest.param(Case(transposed(), (X, (4, 6, 3, 3))), 1, SCALE, Why.COMPUTED, id="transposed, computed weight"),
    pytest.param(Case(Linear(), ((3, 4), (5, 4))), 1, SCALE, Why.COMPUTED, id="linear, computed weight"),
    pytest.param(Case(Gemm(), ((3, 4), (4, 5))), 1, SCALE, Why.COMPUTED, id="gemm of two values"),
    pytest.param(Case(MatMul(), ((3, 4), (4, 5))), 1, SCALE, Why.COMPUTED, id="matmul of two values"),
    pytest.param(Case(MatMul(), ((3, 4), const(4))), 0, SCALE, Why.AXIS, id="matmul with a vector"),
    pytest.param(Case(MatMul(), ((2, 3, 4), const(2, 4, 5))), 2, SHIFT, Why.AXIS, id="a weight for every batch"),
    pytest.param(Case(Einsum("ij,jk->ik"), ((3, 4), (4, 5))), 1, SCALE, Why.COMPUTED, id="einsum of two values"),
    pytest.param(Case(Einsum("bij,jk->bk"), ((2, 3, 4), const(4, 5))), 2, SCALE, Why.AXIS, id="einsum, also sums rows"),
    pytest.param(Case(Einsum("bij,ijk->bk"), ((2, 3, 4), const(3, 4, 5))), 2, SCALE, Why.AXIS, id="einsum, two summed"),
    pytest.param(Case(Einsum("ii,ij->ij"), ((4, 4), const(4, 5))), 1, SCALE, Why.AXIS, id="einsum, a diagonal"),
    pytest.param(Case(Einsum("bc,c->bc"), ((3, 4), const(4))), 1, SCALE, Why.AXIS, id="einsum, elementwise"),
    pytest.param(Case(Einsum("bc->b"), ((3, 4),)), 1, SCALE, Why.AXIS, id="einsum of one operand"),
    pytest.param(Case(Einsum("bi,ij,jk->bk"), ((3, 4), const(4, 5), const(5, 2))), 1, SCALE, Why.AXIS, id="three"),
]


test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)
