"""`bnfold diff` shows just what folding changed."""

import json
import zipfile

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from bnfold.adapters.onnx_file import fold_file
from bnfold.commands.diff import command
from bnfold.errors import BnfoldError
from tests.adapters.onnx_cases import batch_norm, model

TEXT = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
{ c = Conv(x, w) n = BN(c) r = Relu(n) d = Conv<pads=[1,1,1,1]>(r, v) y = Mul(d, r) }"""


def write(path, **more):
    proto = model(TEXT, w=(4, 3, 3, 3), v=(4, 4, 3, 3), **batch_norm(4))
    for node, name in zip(proto.graph.node, ("conv", "bn", "relu", "conv2", "gate"), strict=True):
        node.name = name
    onnx.save(proto, path, **more)
    return proto


def run(*arguments):
    return CliRunner().invoke(command, [str(item) for item in arguments], standalone_mode=False, catch_exceptions=False)


def test_what_a_fold_changed_and_nothing_else(tmp_path):
    write(tmp_path / "a.onnx")
    fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    result = run(tmp_path / "a.onnx", tmp_path / "b.onnx")
    lines = result.output.splitlines()
    assert result.return_value == 1
    assert [line.split()[:3] for line in lines[:-1]] == [
        ["~", "node", "conv"],
        ["-", "node", "bn"],
        ["~", "tensor", "w"],
        *(["-", "tensor", name] for name in ("gamma", "beta", "mean", "var")),
        ["+", "tensor", "conv.bias"],
    ]
    assert "108 of 108 numbers" in result.output
    assert lines[-1] == "5 removed, 1 added, 2 changed"


def test_the_same_model_in_one_file_and_in_two(tmp_path):
    write(tmp_path / "a.onnx")
    write(tmp_path / "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0)
    result = run(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert result.return_value == 0
    assert result.output == "no difference\n"


def test_everything_else_that_can_differ(tmp_path):
    proto = write(tmp_path / "a.onnx")
    proto.producer_name = "other"
    helper.set_model_props(proto, {"author": "somebody"})
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    proto.graph.node[3].attribute[0].ints[:] = [1, 1, 1, 2]
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    w = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    w[1, 2, 0, 1] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    onnx.save(proto, tmp_path / "b.onnx")
    result = run("--json", tmp_path / "a.onnx", tmp_path / "b.onnx")
    found = {
        (item["sign"], item["what"], item["name"]): item["detail"] for item in json.loads(result.output)["differences"]
    }
    assert set(found) == {
        ("~", "metadata", "producer_name"),
        ("+", "metadata", "author"),
        ("+", "metadata", "opset com.example"),
        ("~", "node", "conv2"),
        ("~", "output", "y"),
        ("~", "tensor", "w"),
    }
    assert found["~", "tensor", "w"].startswith("1 of 108 numbers")


def test_names_of_other_people_s_files_stay_in_their_line(tmp_path):
    proto = write(tmp_path / "a.onnx")
    proto.graph.node[2].name = "evil\x1b[31m\n- node all"
    onnx.save(proto, tmp_path / "b.onnx")
    lines = CliRunner().invoke(command, [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")], color=True).output
    assert lines.splitlines() == [
        "- node relu  r = Relu(n)",
        r"+ node evil\x1b[31m - node all  r = Relu(n)",
        "1 removed, 1 added, 0 changed",
    ]


def test_what_is_no_onnx_file(tmp_path):
    write(tmp_path / "a.onnx")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        file.writestr("b/data.pkl", b"")
    with pytest.raises(BnfoldError, match=r"b\.pt: is a PyTorch archive .*; diff compares ONNX files"):
        run(tmp_path / "a.onnx", tmp_path / "b.pt")
