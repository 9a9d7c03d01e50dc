"""Every planted fault is found, and no correct fold is flagged (the whole table is marked slow)."""

import itertools
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from bnfold.checking import Verdict, check
from tests.checking.building import networks
from tests.checking.faults import FAULTS

SCALES = (1.0, 1e3, 1e-4)
LEVELS = tuple(f"cpu:level={level}" for level in ("disable", "basic", "extended", "all"))
BY_NAME = {network.name: network for network in networks()}

# Nothing is comparable where no name is the same: that is "could not verify", which is no pass either.
NOT_A_DIFFERENCE = {("output renamed", name): Verdict.UNVERIFIED for name in BY_NAME if name != "two outputs"}


def planted(network, kind):
    return FAULTS[kind](network, np.random.default_rng(list(FAULTS).index(kind)))


def networks_for(kind):
    return [network for network in BY_NAME.values() if planted(network, kind) is not None]


def verdict(network, kind):
    return check(network.model(), planted(network, kind), localise=False).verdict


def test_enough_kinds_and_networks():
    assert len(FAULTS) >= 25
    assert len(BY_NAME) >= 8


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_is_found(kind):
    """On one network each, another one for every kind."""
    able = networks_for(kind)
    network = able[list(FAULTS).index(kind) % len(able)]
    assert verdict(network, kind) is NOT_A_DIFFERENCE.get((kind, network.name), Verdict.DIFFERENT)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_correct_fold_passes(name):
    network = BY_NAME[name]
    result = check(network.model(), network.model(fold=True), providers=LEVELS[::3], localise=False)
    assert result.passed, result.reasons


def test_a_correct_fold_in_float16_passes():
    network = next(network for network in networks(dtype="float16") if network.name == "residual")
    result = check(network.model(), network.model(fold=True), localise=False)
    assert result.passed, result.reasons


def test_a_correct_fold_in_float64_passes():
    network = next(network for network in networks(dtype="float64") if network.name == "mlp")
    result = check(network.model(), network.model(fold=True), localise=False)
    assert result.passed, result.reasons


def test_a_sample_of_each_kind_through_the_command_line(tmp_path):
    """One process, one reference, a candidate for each kind of fault and a right one."""
    network = BY_NAME["two outputs"]
    models = {"right": network.model(fold=True)} | {f"{i}": planted(network, kind) for i, kind in enumerate(FAULTS)}
    models = {name: model for name, model in models.items() if model is not None}
    for name, model in {"reference": network.model(), **models}.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    files = [f"{name}.onnx" for name in ("reference", *models)]
    done = subprocess.run(
        [sys.executable, "-m", "bnfold", "check", *files, "--json", "--save", ""],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    verdicts = {run["candidate"]: run["verdict"] for run in json.loads(done.stdout)["runs"]}
    assert verdicts.pop("right.onnx") == "verified"
    assert len(verdicts) > 30
    assert set(verdicts.values()) == {"different"}


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", BY_NAME)
def test_the_whole_table_of_faults(name, scale):
    network = next(network for network in networks(scale) if network.name == name)
    missed = {}
    for kind in FAULTS:
        if planted(network, kind) is None:
            continue
        found = verdict(network, kind)
        if found is not NOT_A_DIFFERENCE.get((kind, name), Verdict.DIFFERENT):
            missed[kind] = found
    assert not missed


@pytest.mark.slow
def test_200_correct_variants_pass():
    flagged, count = [], 0
    for scale, dtype in itertools.product(SCALES, ("float32", "float16")):
        if dtype == "float16" and scale == 1e-4:
            continue  # its outputs are subnormal: see test_verdict
        for network in networks(scale, dtype):
            result = check(
                network.model(), network.model(fold=True), providers=(*LEVELS, "cpu:threads=2"), localise=False
            )
            count += len(result.runs)
            flagged += [
                (network.name, scale, dtype, run.options, run.verdict)
                for run in result.runs
                if run.verdict != "verified"
            ]
    assert not flagged
    assert count >= 200
