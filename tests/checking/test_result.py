"""A result survives its JSON form, decides the exit status, and needs neither torch nor a runtime."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from bnfold.checking import check
from bnfold.checking import result as r
from bnfold.checking.result import CheckResult, Verdict
from bnfold.errors import BnfoldError, DifferentError, UnverifiedError
from tests.checking.building import networks, weights_of, with_weight


def measures(**changes):
    plain = r.Measures(
        max_abs=1e-6, max_rel=1e-6, rms=1e-7, rel_l2=1e-7, cosine=1.0, snr_db=math.inf,
        ulp=(r.Bin(0.0, 1.0, 7), r.Bin(1.0, math.inf, 1)), error_log10=(r.Bin(-math.inf, -8.0, 3),),
        argmax=None, top5=0.5, nan=0, inf=0,
    )  # fmt: skip
    return replace(plain, **changes)


def sample(verdict=Verdict.VERIFIED):
    output = r.OutputRecord(
        name="y", candidate_name="y", verdict=verdict, why="" if verdict is Verdict.VERIFIED else "too far",
        shape=(2, 3), dtype="float32", elements=6, scale=1.0, error_ratio=1.1, allowed_ratio=3.0,
        reference=measures(), candidate=measures(max_abs=math.nan),
        exceeded=r.Exceeded("channel", 1e-6, 3e-7, 2, "random/8", (0, 2), 1.0, 1.5, 1.0),
        channels=(r.ChannelRecord(2, 1e-7, 2e-7, 3e-7),),
    )  # fmt: skip
    run = r.Run(
        "a.onnx",
        "cpu",
        (("threads", "1"),),
        "float32",
        verdict,
        (),
        (output,),
        (r.NodeRecord("n", "Conv", "cpu"),),
        True,
    )
    return CheckResult(
        reference="a.pt", candidates=("a.onnx",), verdict=verdict, why=(), truth="torch", runs=(run,),
        inputs=(r.InputRecord("random/8", "random", (("x", (8, 3)),)),),
        budget=(r.BudgetRow("float32", 2**-24, 3.0, 4.0, 5.0, 1.0, 1e-2, "because"),),
        environment=r.Environment((("numpy", "2"),), ("CPUExecutionProvider",), (("cpu", "x"),)),
        coverage=r.Coverage((r.LayerCoverage("relu1", "Relu", 4, 3, 8, 6),)),
        audit=(r.AuditRow("conv1", 3, 0.5, 1.0),),
        divergences=(r.Divergence("a.onnx", "conv1", "Conv", "v", "w", 1, (0, 1), 1.0, 0.1, "random/8", "plan"),),
    )  # fmt: skip


@pytest.mark.parametrize("verdict", Verdict)
def test_json_round_trip(verdict):
    result = sample(verdict)
    text = result.to_json()
    again = CheckResult.from_json(text)
    assert again.to_json() == text
    assert again.runs[0].nodes == result.runs[0].nodes
    assert math.isnan(again.runs[0].outputs[0].candidate.max_abs)


def test_json_is_strict_and_versioned():
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(sample().to_json(), parse_constant=refuse)
    assert data["schema"] == r.SCHEMA
    assert data["passed"] is True
    assert data["exit_status"] == 0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[1]", id="a list"),
        pytest.param('{"schema": "bnfold.check/99"}', id="a later schema"),
        pytest.param('{"schema": "bnfold.check/1", "passed": true, "exit_status": 0}', id="fields missing"),
        pytest.param('{"schema": "bnfold.check/1", "passed": true, "exit_status": 0, "x": 1}', id="fields unknown"),
    ],
)
def test_other_json_is_refused(text):
    with pytest.raises(BnfoldError, match="not a"):
        CheckResult.from_json(text)


def test_exit_status():
    assert {v: sample(v).exit_status for v in Verdict} == {
        Verdict.VERIFIED: 0, Verdict.SKIPPED: 0, Verdict.DIFFERENT: 1, Verdict.UNVERIFIED: 3,
    }  # fmt: skip
    assert [v for v in Verdict if sample(v).passed] == [Verdict.VERIFIED]


def test_raise_for_failure():
    with pytest.raises(DifferentError, match=r"a\.onnx on cpu:threads=1: y: too far"):
        sample(Verdict.DIFFERENT).raise_for_failure()
    with pytest.raises(UnverifiedError):
        sample(Verdict.UNVERIFIED).raise_for_failure()
    sample().raise_for_failure()
    sample(Verdict.SKIPPED).raise_for_failure()


def test_worst():
    assert r.worst([]) is Verdict.UNVERIFIED
    assert r.worst([Verdict.SKIPPED, Verdict.SKIPPED]) is Verdict.SKIPPED
    assert r.worst([Verdict.SKIPPED, Verdict.VERIFIED]) is Verdict.VERIFIED
    assert r.worst([Verdict.VERIFIED, Verdict.UNVERIFIED]) is Verdict.UNVERIFIED
    assert r.worst([Verdict.UNVERIFIED, Verdict.DIFFERENT]) is Verdict.DIFFERENT


def test_audit_row_with_nan_fails():
    assert not r.AuditRow("conv1", 0, math.nan, 1.0).passed


def test_coverage_shares():
    assert sample().coverage.channels == 0.75
    assert sample().coverage.branches == 0.75
    assert r.Coverage(()).channels == 1.0


def test_needs_no_framework():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnxruntime'] = None; sys.modules['onnx'] = None\n"
        "from bnfold.checking import CheckResult"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reasons_begin_with_the_worst():
    network = next(iter(networks()))
    weights = weights_of(network.model(fold=True))
    slight, gross = weights["fc.bias"].copy(), weights["fc.bias"].copy()
    slight[0] += 1e-4
    gross[1] += 10
    candidates = [with_weight(network.model(fold=True), "fc.bias", bias) for bias in (slight, gross)]
    result = check(network.model(), candidates, providers="cpu,tensorrt", localise=False, audit=())
    assert [run.verdict for run in result.runs] == ["different", "unverified"] * 2
    first, second, *doubts = result.reasons
    assert "#2" in first
    assert "#1" in second
    assert all("tensorrt" in reason for reason in doubts)
