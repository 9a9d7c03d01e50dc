"""BatchNorm in front of LSTM, GRU and RNN in ONNX files, with every operand there or not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.adapters.onnx_audit import AuditError
from bnfold.adapters.onnx_file import fold_proto
from bnfold.errors import BnfoldError
from bnfold.plan import Plan, SetConstants
from bnfold.why import Why
from tests.adapters.onnx_cases import batch_norm, fold_and_check, kinds, model, numbers

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
IN, HIDDEN = 5, 4
BN = batch_norm(IN)
HEAD = "(float[N,5,6] x) => (float[l,d,n,h] y) { b = BN(x) t = Transpose<perm=[2,0,1]>(b) "
SCALE = np.array([2.0, -0.5, 3.0, 0.7, -1.5], np.float32)


def weights(kind: str, ways: int = 1) -> dict[str, np.ndarray]:
    gates = GATES[kind] * HIDDEN
    shapes = {"w": (ways, gates, IN), "r": (ways, gates, HIDDEN), "c": (ways, 2 * gates)}
    return {name: numbers(name, shape) / 3 for name, shape in shapes.items()}


def tensor(proto: onnx.ModelProto, node: str, operand: int) -> np.ndarray:
    (found,) = (item for item in proto.graph.node if item.op_type == node)
    return next(numpy_helper.to_array(item) for item in proto.graph.initializer if item.name == found.input[operand])


def call(kind: str, operands: str, ways: int = 1, output: str = "y", **attributes: object) -> str:
    given = {"hidden_size": HIDDEN, **({"direction": '"bidirectional"'} if ways == 2 else {}), **attributes}
    written = ", ".join(f"{name}={value}" for name, value in given.items())
    return f"{output} = {kind}<{written}>({operands}) }}"


STATES = {"s": numbers("s", (1, 2, HIDDEN)), "k": numbers("k", (1, 2, HIDDEN))}
LENGTHS = {"lens": np.array([3, 6], np.int32)}
FOLDS = [
    *(pytest.param(kind, call(kind, "t, w, r, c"), 1, {}, id=kind) for kind in GATES),
    *(pytest.param(kind, call(kind, "t, w, r, c", 2), 2, {}, id=f"{kind}, both ways") for kind in GATES),
    *(pytest.param(kind, call(kind, "t, w, r"), 1, {}, id=f"{kind} without a bias") for kind in GATES),
    *(pytest.param(kind, call(kind, "t, w, r", 2), 2, {}, id=f"{kind} without biases, both ways") for kind in GATES),
    pytest.param("RNN", call("RNN", "t, w, r, c", direction='"reverse"'), 1, {}, id="RNN, backwards"),
    pytest.param("RNN", call("RNN", "t, w, r, c", activations='["Relu"]'), 1, {}, id="RNN with ReLU"),
    pytest.param("GRU", call("GRU", "t, w, r, c", linear_before_reset=1), 1, {}, id="GRU, reset after"),
    pytest.param("LSTM", call("LSTM", "t, w, r, c", clip=0.5), 1, {}, id="LSTM, clipped"),
    pytest.param("LSTM", call("LSTM", 't, w, r, "", lens, s, k, p'), 1, STATES | LENGTHS | {"p": (1, 12)}, id="all"),
    pytest.param("GRU", call("GRU", "t, w, r, c, lens, s"), 1, STATES | LENGTHS, id="GRU of two lengths"),
]


@pytest.mark.parametrize("opset", [7, 17, 22])
@pytest.mark.parametrize(("kind", "layer", "ways", "more"), FOLDS)
def test_a_batch_norm_in_front_goes(kind: str, layer: str, ways: int, more: dict, opset: int, tmp_path: Path) -> None:
    proto = model(HEAD + layer, opset, **(weights(kind, ways) | BN | more))
    folded, result = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Transpose", kind]
    assert len(result.plan.folded) == 1


def test_only_the_states_are_read(tmp_path: Path) -> None:
    text = HEAD.replace("(float[l,d,n,h] y)", "(float[d,n,h] y, float[d,n,h] z)")
    proto = model(text + call("LSTM", "t, w, r", output=", y, z"), **(weights("LSTM") | BN))
    folded, _ = fold_and_check(proto, tmp_path)
    assert kinds(folded) == ["Transpose", "LSTM"]


def test_batch_first() -> None:
    """ONNX Runtime's CPU has no kernel for it, and the weights are those of the steps first."""
    text = "(float[N,6,5] x) => (float[N,6,1,4] y) { b = Mul(x, scale) a = Add(b, shift) "
    tensors = weights("GRU") | {"scale": SCALE, "shift": SCALE[::-1].copy()}
    first, second = (
        fold_proto(model(text + call("GRU", "a, w, r, c", layout=layout), **tensors)).model for layout in (1, 0)
    )
    assert kinds(first) == kinds(second) == ["GRU"]
    for operand in (1, 2, 3):
        np.testing.assert_array_equal(tensor(first, "GRU", operand), tensor(second, "GRU", operand))
    np.testing.assert_allclose(tensor(first, "GRU", 1), weights("GRU")["w"] * SCALE, rtol=1e-7)


def test_the_bias_of_the_recurrent_weight_stays() -> None:
    before = weights("GRU")
    after = tensor(fold_proto(model(HEAD + call("GRU", "t, w, r, c"), **(before | BN))).model, "GRU", 3)
    np.testing.assert_array_equal(after[:, 12:], before["c"][:, 12:])
    assert np.all(after[:, :12] != before["c"][:, :12])
    bare = tensor(fold_proto(model(HEAD + call("GRU", "t, w, r"), **(before | BN))).model, "GRU", 3)
    np.testing.assert_allclose(bare[:, :12], after[:, :12] - before["c"][:, :12], rtol=1e-4, atol=1e-6)
    assert not bare[:, 12:].any()


def test_a_weight_that_another_layer_reads_is_copied(tmp_path: Path) -> None:
    text = (
        HEAD.replace("(float[l,d,n,h] y)", "(float[l,d,n,h] y, float[l,d,n,h] z)") + "u = Transpose<perm=[2,0,1]>(x) "
    )
    text += call("RNN", "t, w, r, c").rstrip("}") + call("RNN", "u, w, r, c", output="z")
    folded, _ = fold_and_check(model(text, **(weights("RNN") | BN)), tmp_path)
    assert kinds(folded) == ["Transpose", "Transpose", "RNN", "RNN"]
    assert len({node.input[1] for node in folded.graph.node if node.op_type == "RNN"}) == 2


def test_a_weight_that_is_the_recurrent_one_too_is_copied(tmp_path: Path) -> None:
    text = "(float[6,N,4] x) => (float[l,d,n,h] y) { b = Mul(x, scale) " + call("RNN", "b, r, r, c")
    proto = model(text, **(weights("RNN") | {"scale": SCALE[:4]}))
    folded, _ = fold_and_check(proto, tmp_path)
    np.testing.assert_array_equal(tensor(folded, "RNN", 2), weights("RNN")["r"])


KEEPS = [
    pytest.param(
        "(float[N,5,6] x, float[1,4,5] w) => (float[l,d,n,h] y) { b = BN(x) t = Transpose<perm=[2,0,1]>(b) "
        + call("RNN", "t, w, r, c"),
        ("r", "c"),
        Why.COMPUTED,
        id="a weight that is an input",
    ),
    pytest.param(
        "(float[N,5,6] x, float[1,8] c) => (float[l,d,n,h] y) { b = BN(x) t = Transpose<perm=[2,0,1]>(b) "
        + call("RNN", "t, w, r, c"),
        ("w", "r"),
        Why.COMPUTED,
        id="a bias that is an input",
    ),
    pytest.param(
        "(float[N,5,6] x) => (float[N,5,6] y) { b = BN(x) " + call("RNN", "b, v, r, c"),
        ("v", "r", "c"),
        Why.AXIS,
        id="along the sequences",
    ),
    pytest.param(
        "(float[6,N,5] x) => (float[l,5,n,h] y) { t = RNN<hidden_size=4>(x, w, r, c) q = Squeeze(t, one) "
        "p = Transpose<perm=[1,2,0]>(q) y = BN4(p) }",
        ("w", "r", "c"),
        Why.RECURRENT,
        id="behind it",
    ),
]


@pytest.mark.parametrize(("text", "held", "why"), KEEPS)
def test_what_stays_and_why(text: str, held: tuple[str, ...], why: Why) -> None:
    given = weights("RNN") | {"v": numbers("v", (1, 4, 6)), "one": np.array([1])}
    four = {f"{name}4": numbers(f"{name}4", (4,)) for name in ("gamma", "beta", "mean", "var")}
    text = text.replace("BN4(p)", "BatchNormalization(p, gamma4, beta4, mean4, var4)")
    needed = {name: given[name] for name in (*held, *(("one",) if "one" in text else ()))}
    plan = fold_proto(model(text, **(needed | (four if "gamma4" in text else BN)))).plan
    (kept,) = plan.kept
    assert why in {reason.why for reason in kept.why}


@pytest.mark.parametrize("operand", [1, 3])
def test_the_audit_refuses_a_number_that_is_wrong(operand: int) -> None:
    proto = model(HEAD + call("LSTM", "t, w, r, c"), **(weights("LSTM") | BN))
    plan = fold_proto(proto).plan
    (edit,) = (edit for edit in plan.edits if isinstance(edit, SetConstants))
    wrong = edit.constants[operand].copy()
    wrong.flat[2] *= 1 + 1e-6
    edits = tuple(
        SetConstants(edit.node, {**edit.constants, operand: wrong}) if one is edit else one for one in plan.edits
    )
    with pytest.raises((AuditError, BnfoldError), match="nothing was written"):
        fold_proto(proto, plan=Plan(plan.outcomes, edits, plan.frames))
