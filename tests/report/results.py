"""Check results of every sort, made by hand: reports are made from these alone."""

import math
from dataclasses import replace

from bnfold.checking import result as r
from bnfold.checking.result import CheckResult, Verdict

HOSTILE = "<script>alert(1)</script>]]>|`x`\n::error::\x1b[31m\u202e@all\ud800 https://a.test/\"'&amp;"


def measures(scale=1.0, **changes):
    plain = r.Measures(
        max_abs=1.5e-6 * scale, max_rel=1.25e-6 * scale, rms=1.75e-7 * scale, rel_l2=1.625e-7 * scale, cosine=1.0,
        snr_db=135.8,
        ulp=(r.Bin(0.0, 0.5, 700), r.Bin(0.5, 1.0, 200), r.Bin(1.0, 2.0, 90), r.Bin(4.0, math.inf, 10)),
        error_log10=(r.Bin(-math.inf, -18.0, 3), r.Bin(-8.0, -7.5, 500), r.Bin(-7.5, -7.0, 497)),
        argmax=1.0, top5=0.5, nan=0, inf=0,
    )  # fmt: skip
    return replace(plain, **changes)


def output(name="y", verdict=Verdict.VERIFIED, **changes):
    wrong = verdict is Verdict.DIFFERENT
    plain = r.OutputRecord(
        name=name, candidate_name=f"{name}2", verdict=verdict,
        why="" if verdict is Verdict.VERIFIED else f"the reason of {name}",
        shape=(2, 3), dtype="float32", elements=1000, scale=1.0,
        error_ratio=40.0 if wrong else 1.1, allowed_ratio=3.0, reference=measures(),
        candidate=measures(40.0 if wrong else 1.1),
        exceeded=r.Exceeded("channel", 1e-6, 3e-7, 2, "random/8", (0, 2), 1.0, 1.5, 1.0),
        channels=(r.ChannelRecord(2, 1e-7, 8e-7, 3e-7), r.ChannelRecord(0, 1e-7, 2e-7, 3e-7)),
    )  # fmt: skip
    return replace(plain, **changes)


def run(candidate="a.onnx", provider="cpu", options=(), verdict=None, why=(), outputs=None):
    outputs = (output(),) if outputs is None else outputs
    verdict = r.worst(item.verdict for item in outputs) if verdict is None else verdict
    nodes = (r.NodeRecord("conv1", "Conv", "CPUExecutionProvider"),)
    return r.Run(candidate, provider, options, "float32", verdict, why, outputs, nodes, True, True, 0.25)


def check(*runs, verdict=None, **changes):
    plain = CheckResult(
        reference="a.pt",
        candidates=tuple(dict.fromkeys(item.candidate for item in runs)),
        verdict=r.worst(item.verdict for item in runs) if verdict is None else verdict,
        why=(), truth="torch, float64", runs=runs,
        inputs=(r.InputRecord("random/8", "random", (("x", (8, 3)),)),),
        budget=(r.BudgetRow("float32", 2**-24, 3.0, 5.0, 5.0, 2.0, 1e-2, "because"),),
        environment=r.Environment((("numpy", "2"),), ("CPUExecutionProvider",), (("cpu", "x"),)),
        coverage=r.Coverage((r.LayerCoverage("relu1", "Relu", 4, 3, 8, 6),)),
        audit=(r.AuditRow("conv1", 3, 0.5, 1.0), r.AuditRow("conv1", 4, 0.25, 1.0)), audit_source="plan",
    )  # fmt: skip
    return replace(plain, **changes)


def divergence(**changes):
    layers = tuple(
        r.LayerError(f"conv{i}", f"conv{i}'", 1e-7 * i, 1e-7 * i if i < 3 else 1e-3, 5e-7 * i) for i in range(1, 7)
    )
    plain = r.Divergence(
        "b.onnx", "conv3", "Conv", "v", "w", 5, (0, 5, 1), 1.0, 0.125, "random/8", "plan", "replay.npz", layers
    )
    return replace(plain, **changes)


def verified():
    return check(run(), run(options=(("use_tf32", "0"),), provider="cuda"))


def different():
    bad = run("b.onnx", outputs=(output("y", Verdict.DIFFERENT), output("z")))
    audit = (r.AuditRow("conv3", 5, math.nan, 1.0), r.AuditRow("conv3", 6, 9.0, 1.0), r.AuditRow("conv1", 0, 0.5, 1.0))
    return check(run(), bad, divergences=(divergence(),), audit=audit, warnings=("coverage is low",))


def unverified():
    missing = run(provider="cuda", verdict=Verdict.UNVERIFIED, why=("libcudnn.so.9 is missing",), outputs=())
    return check(run(), missing)


def skipped():
    missing = run(provider="cuda", verdict=Verdict.SKIPPED, why=("CUDA is missing",), outputs=())
    return check(run(), missing, skips=(r.Skip("a.onnx on cuda", "CUDA is missing"),))


def only_skipped():
    missing = run(provider="cuda", verdict=Verdict.SKIPPED, why=("CUDA is missing",), outputs=())
    return check(missing, skips=(r.Skip("a.onnx on cuda", "CUDA is missing"),), audit=())


def nothing():
    return check(verdict=Verdict.UNVERIFIED, audit=(), coverage=None, inputs=(), budget=())


def not_placed():
    """Every output is right, and yet the run proves nothing: a node fell back."""
    return check(run(provider="cuda", verdict=Verdict.UNVERIFIED, why=("conv1 ran on the CPU",)))


def ill_conditioned():
    blank = output("y", Verdict.UNVERIFIED, reference=None, candidate=None, error_ratio=None, exceeded=None)
    return check(run(outputs=(blank,)), why=("the reference is ill-conditioned",))


def hostile():
    """Every string of the result was made by somebody who wishes the reader ill."""
    bad = output(HOSTILE, Verdict.DIFFERENT, why=HOSTILE, candidate_name=HOSTILE)
    row = replace(run(HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),), why=(HOSTILE,), outputs=(bad,)), mode=HOSTILE)
    layers = (r.LayerError(HOSTILE, HOSTILE, 1e-7, 1e-3, 1e-6),) * 2
    place = divergence(
        candidate=HOSTILE, layer=HOSTILE, operator=HOSTILE, reference_value=HOSTILE, candidate_value=HOSTILE,
        input=HOSTILE, replay=HOSTILE, layers=layers,
    )  # fmt: skip
    return check(
        row, reference=HOSTILE, why=(HOSTILE,), truth=HOSTILE, divergences=(place,), warnings=(HOSTILE,),
        assumptions=(HOSTILE,), skips=(r.Skip(HOSTILE, HOSTILE),), audit=(r.AuditRow(HOSTILE, 1, 9.0, 1.0, HOSTILE),),
        audit_source=HOSTILE, inputs=(r.InputRecord(HOSTILE, HOSTILE, ((HOSTILE, (1,)),)),),
        environment=r.Environment(((HOSTILE, HOSTILE),), (HOSTILE,), ((HOSTILE, HOSTILE),)),
        coverage=r.Coverage((r.LayerCoverage(HOSTILE, HOSTILE, 4, 3, 8, 6),)),
    )  # fmt: skip


RESULTS = {
    make.__name__: make
    for make in (
        verified, different, unverified, skipped, only_skipped, nothing, not_placed, ill_conditioned, hostile,
    )
}  # fmt: skip
