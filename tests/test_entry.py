"""What `bnfold.fold` says of options that a kind of model hasn't, and of dry runs."""

import pytest
from onnx import parser

import bnfold
from bnfold.errors import BnfoldError
from tests.adapters.onnx_cases import batch_norm, model

TEXT = "(float[n,3,6,6] x) => (float[n,4,a,b] z) { y = Conv<kernel_shape=[1,1]>(x, w) z = BN(y) }"


def test_a_dry_run_of_a_proto_plans_and_gives_it_back():
    proto = model(TEXT, w=(4, 3, 1, 1), **batch_norm(4))
    before = proto.SerializeToString()
    result = bnfold.fold(proto, dry_run=True)
    assert result.model is proto
    assert proto.SerializeToString() == before
    assert len(result.plan.folded) == 1


def test_a_proto_is_not_changed_in_place():
    with pytest.raises(BnfoldError, match=r"a ModelProto isn't changed in place; leave inplace out"):
        bnfold.fold(model(TEXT, w=(4, 3, 1, 1), **batch_norm(4)), inplace=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "out.onnx"}, "output: only a file is folded"),
        ({"kwargs": {"x": 1}}, "kwargs: only an nn.Module"),
        ({"example_inputs": [1]}, "example_inputs: a ModelProto needs none"),
    ],
)
def test_what_a_proto_does_not_take_is_refused(given, message):
    with pytest.raises(BnfoldError, match=message):
        bnfold.fold(model(TEXT, w=(4, 3, 1, 1), **batch_norm(4)), **given)


def test_a_second_path_is_no_output(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model(TEXT, w=(4, 3, 1, 1), **batch_norm(4)).SerializeToString())
    with pytest.raises(BnfoldError, match=r"an ONNX file needs none; leave them out \(where .* output=\)"):
        bnfold.fold(path, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_model_is_refused():
    with pytest.raises(BnfoldError, match=r"can't fold a GraphProto; wanted an nn\.Module"):
        bnfold.fold(parser.parse_graph("g (float[1] x) => (float[1] y) { y = Relu(x) }"))
