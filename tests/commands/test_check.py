"""`bnfold check` end to end, through the command line's own entry."""

import importlib
import json

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bnfold.checking.replay import META
from bnfold.checking.result import CheckResult
from bnfold.commands import group
from bnfold.errors import BnfoldError
from tests.checking.building import Layer, Network, networks, weights_of, with_weight

NETWORKS = {network.name: network for network in networks()}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"\x80\x02}.")
    network = NETWORKS["residual"]
    good = network.model(fold=True)
    bad = with_weight(good, "c2.bias", weights_of(good)["c2.bias"] * np.float32(1.01))
    for name, model in (("reference", network.model()), ("good", good), ("bad", bad)):
        onnx.save(model, tmp_path / f"{name}.onnx")

    def invoke(*arguments):
        done = CliRunner().invoke(group, ["check", *map(str, arguments)], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.return_value, done.output

    return invoke


def test_verified(run):
    status, output = run("reference.onnx", "good.onnx")
    assert status == 0
    assert "verified: the same function" in output
    assert "good.onnx  cpu [float32]  fc      ok" in output


def test_different_says_where(run):
    status, output = run("reference.onnx", "good.onnx", "bad.onnx")
    assert status == 1
    assert "first divergence (bad.onnx): c2/BatchNormalization (BatchNormalization)" in output
    assert "replay: bnfold check --replay bnfold-replay.npz" in output


def test_replay_runs_only_the_saved_input(run, tmp_path):
    run("reference.onnx", "bad.onnx")
    saved = np.load(tmp_path / "bnfold-replay.npz")
    assert saved["x"].shape[0] == 1
    status, output = run("--replay", "bnfold-replay.npz")
    assert status == 1
    assert "1 input" in output
    status, _ = run("reference.onnx", "good.onnx", "--replay", "bnfold-replay.npz")
    assert status == 0


def test_json(run):
    status, output = run("reference.onnx", "good.onnx", "--json")
    result = CheckResult.from_json(output)
    assert status == result.exit_status == 0
    assert json.loads(output)["schema"] == "bnfold.check/1"
    assert {node.provider for node in result.runs[0].nodes} == {"cpu"}
    assert result.runs[0].nodes_proven
    assert result.runs[0].repeats_equal


def test_report(run, tmp_path):
    status, _ = run("reference.onnx", "bad.onnx", "--report", "json=out.json")
    assert status == 1
    assert CheckResult.from_json((tmp_path / "out.json").read_text()).exit_status == 1


def test_reduce(run, tmp_path):
    status, output = run("reference.onnx", "bad.onnx", "--reduce", "small")
    assert status == 1
    assert "reduced to 2 and 1 nodes" in output
    status, _ = run("small/reference.reference.onnx", "small/bad.candidate.onnx")
    assert status == 1


def test_reduce_leaves_the_verdict(run, tmp_path):
    """Only what differs is cut, each candidate in its own folder, and no failure to cut hides the difference."""
    status, output = run("reference.onnx", "good.onnx", "bad.onnx", "--reduce", "small")
    assert status == 1
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["bad.onnx"]
    assert len(list((tmp_path / "small/bad.onnx").iterdir())) == 2
    (tmp_path / "file").touch()
    status, output = run("reference.onnx", "bad.onnx", "--reduce", "file")
    assert status == 1
    assert "bnfold: bad.onnx was not reduced: file: can't be made (File exists)" in output


def test_weights_that_no_output_shows_are_not_reduced(run, tmp_path):
    good = onnx.load(tmp_path / "good.onnx")
    weight = weights_of(good)["c2.weight"].copy()
    weight[0, 0, 0, 0] *= np.float32(1 + 2**-17)
    onnx.save(with_weight(good, "c2.weight", weight), tmp_path / "tiny.onnx")
    status, output = run("reference.onnx", "tiny.onnx", "--reduce", "small")
    assert status == 1
    assert "audit: 1 constant other than recomputed" in output
    assert "tiny.onnx  cpu [float32]  fc      ok" in output
    assert "bnfold: tiny.onnx was not reduced: nothing to reduce: no value inside the two differs" in output


def test_what_can_not_be_saved_is_a_warning(run, tmp_path):
    (tmp_path / "bnfold-replay.npz").mkdir()
    status, output = run("reference.onnx", "bad.onnx")
    assert status == 1
    assert "warning: the input that shows the difference was not saved: bnfold-replay.npz: is a folder" in output
    assert "replay: bnfold" not in output


@pytest.mark.parametrize("listed", [5, "good.onnx", [5, None], None], ids=repr)
def test_a_replay_file_that_names_no_candidates(run, tmp_path, listed):
    arrays = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    meta = np.array(json.dumps({"reference": "reference.onnx", "candidates": listed}))
    np.savez(tmp_path / "r.npz", **arrays, **{META: meta})
    with pytest.raises(click.UsageError, match="at least one CANDIDATE"):
        run("--replay", "r.npz")


def test_inputs_from_a_folder(run, tmp_path):
    (tmp_path / "samples").mkdir()
    x = np.random.default_rng(0).normal(size=(2, 3, 10, 10)).astype(np.float32)
    np.savez(tmp_path / "samples" / "a.npz", x=x)
    np.save(tmp_path / "samples" / "b.npy", x)
    _, output = run("reference.onnx", "good.onnx", "--inputs", "samples", "--json")
    names = [sample.name for sample in CheckResult.from_json(output).inputs]
    assert names[:2] == ["sample/a", "sample/b"]


def test_missing_provider(run):
    assert run("reference.onnx", "good.onnx", "--providers", "cuda")[0] == 3
    status, output = run("reference.onnx", "good.onnx", "--providers", "cuda", "--allow-missing")
    assert status == 0
    assert "skipped: nothing was compared" in output
    status, output = run("reference.onnx", "good.onnx", "--providers", "cpu,cuda", "--allow-missing")
    assert status == 0
    assert "skipped: good.onnx on cuda" in output


def test_budget(run):
    status, output = run("--budget", "show")
    assert status == 0
    assert "tf32" in output
    assert run("reference.onnx", "good.onnx", "--budget", "rms=1e-3,channel=1e-3,peak=1e-3")[0] == 1
    assert run("reference.onnx", "good.onnx", "--budget", "rms=1e9,channel=1e9,peak=1e9")[0] == 3  # lets anything pass


def test_the_plan_of_the_fold_maps_the_values(run, tmp_path):
    """The plan's map is complete up to the fault, where the one by values has to guess."""
    arguments = ["fold", "reference.onnx", "-o", "folded.onnx", "--save-plan", "plan.json"]
    assert CliRunner().invoke(group, arguments, standalone_mode=False).return_value in (0, None)
    folded = onnx.load(tmp_path / "folded.onnx")
    biases = [node.input[2] for node in folded.graph.node if node.op_type == "Conv"]
    wrong = weights_of(folded)[biases[1]].copy()
    wrong[3] += 0.01
    onnx.save(with_weight(folded, biases[1], wrong), tmp_path / "wrong.onnx")
    status, output = run("reference.onnx", "wrong.onnx", "--plan", "plan.json", "--json")
    (divergence,) = CheckResult.from_json(output).divergences
    assert status == 1
    assert divergence.mapped_by == "plan"
    assert divergence.channel == 3
    assert divergence.reference_value in ("c2.linear", "c2.0.batchnormalization")
    assert {layer.reference for layer in divergence.layers} >= {"c1", "c2", "c3", "c4", "fc"}
    assert run("reference.onnx", "folded.onnx", "--plan", "plan.json")[0] == 0
    with pytest.raises(BnfoldError, match="one plan maps one candidate"):
        run("reference.onnx", "folded.onnx", "good.onnx", "--plan", "plan.json")


def test_settings_of_the_project(run, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.bnfold]\nproviders = ["cpu:level=basic"]\nseed = 5\nreport = "json=out.json"\n'
        "[tool.bnfold.budget]\nrms = 9.0\n"
    )
    _, output = run("reference.onnx", "good.onnx", "--seed", "7", "--json")
    result = CheckResult.from_json(output)
    assert result.seed == 7
    assert result.runs[0].options == (("level", "basic"),)
    assert result.budget[0].rms == 9
    assert (tmp_path / "out.json").exists()


def test_annotations_in_a_github_workflow(run, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "\n::error title=bnfold" in run("reference.onnx", "bad.onnx")[1]
    assert "::error" not in run("reference.onnx", "bad.onnx", "--json")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("reference.onnx", "none.onnx"), "no such file", id="no file"),
        pytest.param(("reference.onnx", "good.onnx", "--budget", "rms=a lot"), "wanted show", id="budget"),
        pytest.param(("reference.onnx", "good.onnx", "--budget", "rme=3"), "no budget figure rme", id="figure"),
        pytest.param(("reference.onnx", "good.onnx", "--providers", "cpu:threads=x"), "wanted a number", id="option"),
        pytest.param(("reference.onnx", "good.onnx", "--providers", ","), "no provider given", id="no provider"),
        pytest.param(("reference.onnx", "good.onnx", "--inputs", "none"), "no such file", id="inputs"),
        pytest.param(("reference.onnx", "good.onnx", "--report", "jnit=x"), "did you mean junit", id="report"),
        pytest.param(("--replay", "reference.onnx"), "not a replay file", id="replay"),
        pytest.param(
            ("model.pt", "good.onnx", "--plan", "x"), "model.pt: --plan maps the values", id="a module's plan"
        ),
        pytest.param(("reference.onnx", "good.onnx", "--save", "none/x.npz"), "can't be written", id="save"),
        pytest.param(
            ("reference.onnx", "good.onnx", "--input", "1x3x8x8", "--inputs", "x"), "one of the two", id="two"
        ),
    ],
)
def test_usage_errors(run, arguments, message):
    with pytest.raises(BnfoldError, match=message) as caught:
        run(*arguments)
    assert caught.value.exit_status == 2


def test_a_module_file_against_onnx(run, tmp_path):
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    torch.save(module, tmp_path / "m.pt")
    weight, bias = (tensor.detach().double().numpy() for tensor in (module[0].weight, module[0].bias))
    scale = 1 / np.sqrt(1 + 1e-5)  # fresh statistics
    for name, factor in (("right", scale), ("wrong", 1.001 * scale)):
        layer = Layer("c", "Conv", weight * factor, bias * factor, after=[("Relu", {})])
        onnx.save(Network(name, (1, 8, 8), [layer], ("c",)).model(), tmp_path / f"{name}.onnx")
    assert run("m.pt", "right.onnx")[0] == 0
    assert run("m.pt", "wrong.onnx")[0] == 1


def test_two_modules_need_inputs(run, tmp_path):
    torch = importlib.import_module("torch")
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)), tmp_path / "m.pt")
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    with pytest.raises(BnfoldError, match="give some with --inputs"):
        run("m.pt", "m.pt")
    assert run("m.pt", "m.pt", "--inputs", "x.npy")[0] == 0
