import numpy as np
import pytest

from bnfold.affine import Affine
from bnfold.ops import Recurrent
from bnfold.plan import SetConstants
from bnfold.rules import rewritten
from bnfold.why import Why
from tests.rules.dense import SCALE, SHIFT, SIGN
from tests.rules.law import Case, axes_of, freedom_of, law_tests

rng = np.random.default_rng(0)
ALL = "x0.scale x0.sign x0.shift"
GATES = {"LSTM": 4, "GRU": 3, "GRU, reset after": 3, "RNN": 1}
STEPS, BATCH, IN, HIDDEN = 5, 2, 3, 4
X = (STEPS, BATCH, IN)
STACKED, BOTH = ((1, 3),), ((1, 3), (5, 7))


def const(*shape):
    return rng.normal(size=shape) / 2


def onnx(kind, ways=1, bias=True, states=(), lengths=None):
    """ONNX's operands. states: shapes of the initial ones, or constants."""
    gates = GATES[kind] * HIDDEN
    biases = const(ways, 2 * gates) if bias else None
    operands = [X, const(ways, gates, IN), const(ways, gates, HIDDEN), biases, lengths, *states]
    outputs = ((STEPS, ways, BATCH, HIDDEN), (ways, BATCH, HIDDEN), (ways, BATCH, HIDDEN))
    return Case(Recurrent(kind, STACKED), tuple(operands), outputs[: 3 if kind == "LSTM" else 2])


def torch(kind, ways=1):
    """torch's operands."""
    gates = GATES[kind] * HIDDEN
    shapes = ((gates, IN), (gates, HIDDEN), (gates,), (gates,))
    operands = [const(*shape) for _ in range(ways) for shape in shapes]
    outputs = ((STEPS, BATCH, ways * HIDDEN), (ways, BATCH, HIDDEN))
    return Case(Recurrent(kind, BOTH[:ways]), (X, *operands), outputs)


STATE = (1, BATCH, HIDDEN)
HOLDS = [
    *(pytest.param(onnx(kind), 2, ALL, id=kind) for kind in GATES),
    *(pytest.param(onnx(kind, 2), 2, ALL, id=f"{kind}, both ways") for kind in GATES),
    *(pytest.param(onnx(kind, bias=False), 2, ALL, id=f"{kind} without a bias") for kind in GATES),
    *(pytest.param(torch(kind), 2, ALL, id=f"{kind} of torch") for kind in GATES),
    *(pytest.param(torch(kind, 2), 2, ALL, id=f"{kind} of torch, both ways") for kind in GATES),
    pytest.param(onnx("LSTM", lengths=np.array([3.0, 5.0])), 2, ALL, id="LSTM of sequences of two lengths"),
    pytest.param(onnx("GRU", 2, lengths=np.array([2.0, 4.0])), 2, ALL, id="GRU, both ways, of two lengths"),
    pytest.param(onnx("LSTM", states=(STATE, STATE)), 2, ALL, id="LSTM with states that are computed"),
    pytest.param(onnx("RNN", states=(const(*STATE),)), 2, ALL, id="RNN with a constant state"),
]
SEVERAL = Case(Recurrent("LSTM", STACKED), (X, (1, 16, IN), const(1, 16, HIDDEN)), ((STEPS, 1, BATCH, HIDDEN),))
BIASED = Case(
    Recurrent("LSTM", STACKED), (X, const(1, 16, IN), const(1, 16, HIDDEN), (1, 32)), ((STEPS, 1, BATCH, HIDDEN),)
)
SQUARE = Case(Recurrent("RNN", STACKED), ((3, 3, 3), const(1, 4, 3), const(1, 4, 4)), ((3, 1, 3, 4),))
STOPS = [
    pytest.param(SEVERAL, 2, SCALE, Why.COMPUTED, id="a computed weight"),
    pytest.param(BIASED, 2, SCALE, Why.COMPUTED, id="a computed bias"),
    pytest.param(onnx("LSTM"), 3, SCALE, Why.RECURRENT, id="the output, scale"),
    pytest.param(onnx("GRU"), 3, SIGN, Why.RECURRENT, id="the output, sign"),
    pytest.param(torch("RNN", 2), 2, SHIFT, Why.RECURRENT, id="the output, shift"),
    pytest.param(onnx("LSTM", states=(STATE, STATE)), 2, SCALE, Why.RECURRENT, id="a state"),
]
test_the_law, test_nothing_is_held_in_vain, test_stops = law_tests(HOLDS, STOPS)


@pytest.mark.parametrize("axis", [0, 1])
def test_steps_and_sequences_have_no_weights_of_their_own(axis):
    site = SQUARE.site
    for aspect in (SCALE, SIGN, SHIFT):
        assert freedom_of(site, axes_of(site, axis)).of("x0", aspect) == 0


def test_what_does_not_change_is_not_written():
    site = onnx("LSTM", 2).site
    scale, shift = np.array([2.0, -1, 0.5]), np.array([1.0, 0, -3])
    ones, zeros = np.ones(IN), np.zeros(IN)
    written = {
        name: sorted(edit.constants)
        for name, frame in (("scale", (scale, zeros)), ("shift", (ones, shift)), ("both", (scale, shift)))
        for edit in rewritten(site.node.op, site, {"x0": Affine(2, *frame)})
        if isinstance(edit, SetConstants)
    }
    assert written == {"scale": [1], "shift": [3], "both": [1, 3]}
    assert rewritten(site.node.op, site, {"x0": Affine(2, ones, zeros)}) == ()
