"""`bnfold fold` and `bnfold inspect` from the command line, on ONNX text models and on a checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper, parser

from bnfold.commands import group
from bnfold.errors import BnfoldError

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
  conv1 = Conv<pads=[1,1,1,1]>(x, w1)
  bn1 = BatchNormalization(conv1, gamma1, beta1, mean1, var1)
  relu = Relu(bn1)
  bn2 = BatchNormalization(relu, gamma2, beta2, mean2, var2)
  y = Conv<pads=[1,1,1,1]>(bn2, w2)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = parser.parse_model(TEXT)
    for node in proto.graph.node:
        node.name = node.output[0]
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"w1": (6, 3, 3, 3), "w2": (4, 6, 3, 3)}
    shapes |= {f"{name}{k}": (6,) for name in ("gamma", "beta", "mean", "var") for k in (1, 2)}
    for name, shape in shapes.items():
        numbers = rng.uniform(0.5, 2, shape) if name.startswith(("gamma", "var")) else rng.normal(size=shape)
        proto.graph.initializer.append(numpy_helper.from_array(numbers.astype(np.float32), name))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments], standalone_mode=False)


def output(*arguments: object) -> str:
    result = run(*arguments)
    if result.exception is not None:
        raise result.exception
    assert result.return_value == 0
    return result.output


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, BnfoldError), result.output
    return str(result.exception)


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_it_writes_beside_the_model_and_says_what_became_of_every_batch_norm(model: Path) -> None:
    before = model.read_bytes()
    text = output("fold", model)
    assert kinds(model.with_name("model.folded.onnx")) == ["Conv", "Relu", "BatchNormalization", "Conv"]
    assert model.read_bytes() == before
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert "bn1 BatchNorm folded into conv1" in lines
    assert "bn2 BatchNorm stays relu bends at zero, so a shift can't pass [kink]" in lines
    assert "BatchNorms 2 1" in lines
    assert f"wrote {model.with_name('model.folded.onnx')}" in lines


def test_a_graph_is_no_json(model: Path) -> None:
    result = CliRunner().invoke(group, ["inspect", str(model), "--graph", "--json"])
    assert result.exit_code == 2
    assert "--graph prints text" in result.output


def test_a_dry_run_and_inspect_write_nothing(model: Path) -> None:
    output("fold", model, "--dry-run")
    text = output("inspect", model)
    assert "wrote" not in text
    assert "bn1" in text
    assert list(model.parent.iterdir()) == [model]


def test_json(model: Path) -> None:
    data = json.loads(output("fold", model, "--json"))
    assert data["output"] == str(model.with_name("model.folded.onnx"))
    assert (data["dry_run"], data["level"]) == (False, "default")
    assert [row["outcome"] for row in data["outcomes"]] == ["folded", "kept"]
    inspected = json.loads(output("inspect", model, "--json"))
    assert (inspected["output"], inspected["dry_run"]) == (None, True)
    assert inspected["plan_sha256"] == data["plan_sha256"]


def test_a_saved_plan_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    plan, first, second = (tmp_path / name for name in ("plan.json", "a.onnx", "b.onnx"))
    output("fold", model, "--save-plan", plan, "-o", first, "--level", "max")
    output("fold", model, "--plan", plan, "-o", second)
    assert first.read_bytes() == second.read_bytes()
    assert "BatchNormalization" not in kinds(second)


def test_a_plan_for_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    output("fold", model, "--save-plan", plan)
    proto = onnx.load(model)
    proto.graph.initializer[2].CopyFrom(
        numpy_helper.from_array(np.ones(6, np.float32), proto.graph.initializer[2].name)
    )
    other = tmp_path / "other.onnx"
    onnx.save(proto, other)
    assert "other weights" in refused("fold", other, "--plan", plan)
    assert not (tmp_path / "other.folded.onnx").exists()
    assert "no such file" in refused("fold", model, "--plan", tmp_path / "none.json")


def test_nothing_is_written_where_the_plan_has_no_place(model: Path, tmp_path: Path) -> None:
    assert "can't be written" in refused("fold", model, "--save-plan", tmp_path / "none" / "plan.json")
    assert list(tmp_path.iterdir()) == [model]


def test_patterns(model: Path) -> None:
    assert "[skipped]" in output("fold", model, "--skip", "bn?", "--dry-run")
    rows = json.loads(output("inspect", model, "--only", "bn2", "--json"))["outcomes"]
    assert rows[0]["why"][0]["code"] == "skipped"


@pytest.mark.parametrize("option", ["--only", "--skip"])
def test_a_pattern_that_matches_nothing_is_a_mistake(option: str, model: Path, tmp_path: Path) -> None:
    assert "matches 'bn9'; they are bn1, bn2" in refused("fold", model, option, "bn1", option, "bn9")
    assert "matches 'bn9'" in refused("inspect", model, option, "bn9")
    assert list(tmp_path.iterdir()) == [model]


def test_in_place(model: Path, tmp_path: Path) -> None:
    assert "is the source itself" in refused("fold", model, "-o", model)
    assert "give one of the two" in refused("fold", model, "--in-place", "-o", tmp_path / "x.onnx")
    output("fold", model, "--in-place")
    assert kinds(model) == ["Conv", "Relu", "BatchNormalization", "Conv"]
    assert list(tmp_path.iterdir()) == [model]


def test_verify_runs_the_result_before_it_takes_its_name(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold import folding_files
    from bnfold.errors import DifferentError

    seen: list[Sequence[str]] = []

    def different(source: Path, folded: Path) -> None:
        seen.append(kinds(folded))
        raise DifferentError("y is different")

    monkeypatch.setattr(folding_files, "_verify", different)
    assert refused("fold", model, "--verify") == "y is different"
    assert seen == [["Conv", "Relu", "BatchNormalization", "Conv"]]
    assert list(model.parent.iterdir()) == [model]


def test_verify_on_the_runtime(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert "verified" in output("fold", model, "--verify")


def test_inspect_draws_and_prints_the_graph(model: Path, tmp_path: Path) -> None:
    output("inspect", model, "--svg", tmp_path / "kept.svg")
    assert "bn2" in "".join(ElementTree.parse(tmp_path / "kept.svg").getroot().itertext())
    graph = output("inspect", model, "--graph").strip().split("\n")
    assert graph[1] == "bn1 (N, 6, 8, 8) = BatchNorm(conv1, gamma1, beta1, mean1, var1) eps=1e-05"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "is empty"), (b"hello world\n", "not a model file")]
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    assert message in refused("fold", path)
    assert not (tmp_path / "bad.folded.onnx").exists()


def test_an_onnx_model_stays_one(model: Path) -> None:
    assert ".onnx" in refused("fold", model, "-o", "x.pt")


def test_a_plan_says_what_is_folded(model: Path) -> None:
    result = run("fold", model, "--plan", "p.json", "--skip", "bn1")
    assert "leave out --only" in str(result.exception)


@pytest.mark.parametrize(
    "option", [["--arch", "lenet"], ["--input", "1x3x8x8"], ["--bake"], ["--to", "pt2"], ["--arch-kwargs", "a=1"]]
)
def test_what_an_onnx_model_has_no_use_for_is_not_ignored(model: Path, option: list[str]) -> None:
    assert f"is an ONNX model; {option[0]} can't be used with it" in refused("fold", model, *option)
    assert not model.with_suffix(".folded.onnx").exists()


def test_a_graph_has_one_line_a_node(tmp_path: Path) -> None:
    from tests.adapters.onnx_cases import model as parsed

    proto = parsed("(float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Abs(a) }")
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "evil\x1b[31m\nname"
    onnx.save(proto, tmp_path / "model.onnx")
    lines = output("inspect", tmp_path / "model.onnx", "--graph").strip().split("\n")
    assert lines == [r"evil\x1b[31m name (N, 4) = Relu(x)", r"y (N, 4) = Abs(evil\x1b[31m name)"]
