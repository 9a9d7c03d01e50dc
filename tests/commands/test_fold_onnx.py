"""`bnfold fold` on ONNX files: the options that only they have, and files that are refused, by exit status."""

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from onnx.external_data_helper import set_external_data

from bnfold import commands
from tests.adapters.hostile_onnx import CORPUS
from tests.adapters.onnx_cases import batch_norm, kinds, saved

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the program; its exit status, and what it says of an error."""

    for name in ("without_collector", "leave_the_rest"):  # for a process that ends with it
        monkeypatch.setattr(commands, name, lambda: None)

    def ended(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bnfold", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            commands.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, capsys.readouterr().err

    return ended


@pytest.fixture
def source(tmp_path: Path) -> Path:
    text = "(float[N,3,8,8] x) => (float[N,64,6,6] y) { c = Conv(x, w) y = BN(c) }"
    return saved(tmp_path, text, w=(64, 3, 3, 3), **batch_norm(64))


def test_inputs_that_have_defaults_are_frozen_where_that_is_asked_for(source: Path, run: Run) -> None:
    proto = onnx.load(source)
    for item in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    onnx.save(proto, source)
    folded = source.with_suffix(".folded.onnx")
    assert run("fold", source) == (0, "")
    assert kinds(onnx.load(folded)) == ["Conv", "BatchNormalization"]
    assert run("fold", source, "--freeze-inputs") == (0, "")
    assert kinds(onnx.load(folded)) == ["Conv"]
    assert [item.name for item in onnx.load(folded).graph.input] == ["x"]
    plan, other = source.with_name("plan.json"), source.with_name("other.onnx")
    assert run("fold", source, "--freeze-inputs", "--dry-run", "--save-plan", plan) == (0, "")
    assert run("fold", source, "--freeze-inputs", "--plan", plan, "-o", other) == (0, "")
    assert other.read_bytes() == folded.read_bytes()


@pytest.mark.parametrize(("policy", "outside"), [("auto", False), ("never", False), ("always", True)])
def test_where_external_data_goes_is_said(policy: str, outside: bool, source: Path, run: Run) -> None:
    assert run("fold", source, "--external-data", policy) == (0, "")
    assert source.with_name("model.folded.onnx.data").exists() == outside


BAD = ["truncated", "circle", "deep_nesting", "too_little_data", "overflowing_dims", "old_opset", "unknown_type"]


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_told_in_one_line_and_ends_with_2(name: str, source: Path, run: Run) -> None:
    source.write_bytes(CORPUS[name]())
    code, said = run("fold", source)
    assert code == 2
    assert said.startswith(f"bnfold: {source}: ")
    assert said.count("\n") == 1
    assert [path.name for path in source.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "link.bin"])
def test_data_elsewhere_is_told_in_one_line_and_ends_with_4(location: str, source: Path, run: Run) -> None:
    proto = onnx.load(source)
    held = proto.graph.initializer[0]
    folder = source.parent / "inner"
    folder.mkdir()
    (source.parent / "w.bin").write_bytes(held.raw_data)
    (folder / "link.bin").symlink_to(source.parent / "w.bin")
    set_external_data(held, location, 0, len(held.raw_data))
    held.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    code, said = run("fold", folder / "model.onnx")
    assert code == 4
    assert said.startswith(f"bnfold: {folder / 'model.onnx'}: its data file ")
    assert said.count("\n") == 1
    assert not (folder / "model.folded.onnx").exists()
