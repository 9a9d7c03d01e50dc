"""Models whose weights are in other files: where they may be, where they go, and that they are written as one set."""

import os

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from bnfold.adapters import onnx_content, onnx_write
from bnfold.adapters.onnx_file import fold_file, fold_proto
from bnfold.errors import BnfoldError, UnsafeError
from tests.adapters.onnx_cases import batch_norm, kinds, model, numbers, run

TEXT = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
{ c = Conv(x, w) n = BN(c) r = Relu(n) k = Constant<value = float[1] {2.0}>() m = Mul(r, big) y = Mul(m, k) }"""
SHAPES = {"w": (4, 3, 3, 3), "big": (1, 4, 6, 6)}


@pytest.fixture
def proto():
    return model(TEXT, **SHAPES, **batch_norm(4))


def same_function(source, target):
    feeds = {"x": numbers("x", (2, 3, 8, 8))}
    got, wanted = run(target, feeds)[0], run(source, feeds)[0]
    assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def places(path):
    """Where each tensor's data is: the file's name, empty for the model's own."""
    found = {}
    for item in onnx.load(path, load_external_data=False).graph.initializer:
        found[item.name] = next((entry.value for entry in item.external_data if entry.key == "location"), "")
    return found


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data_goes_along(proto, one_file, tmp_path):
    onnx.save(
        proto,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        size_threshold=0,
        convert_attribute=True,
    )
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert fold_file(tmp_path / "model.onnx", other / "folded.onnx").plan.folded
    assert sorted(path.name for path in other.iterdir()) == ["folded.onnx"]  # nothing of 1,024 bytes
    same_function(tmp_path / "model.onnx", other / "folded.onnx")
    onnx.checker.check_model(str(other / "folded.onnx"), full_check=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_nothing_is_put_beside_a_pipe(tmp_path):
    source, pipe = tmp_path / "model.onnx", tmp_path / "pipe"
    wide = TEXT.replace("[N,4,6,6]", "[N,64,6,6]")
    onnx.save(model(wide, w=(64, 3, 3, 3), big=(1, 64, 6, 6), **batch_norm(64)), source)
    os.mkfifo(pipe)
    with pytest.raises(BnfoldError, match="nothing can lie beside it"):
        fold_file(source, pipe, external_data="always")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "pipe"}


def test_external_data_stays_outside(tmp_path):
    shapes = {"w": (16, 3, 3, 3), "v": (16, 16, 3, 3)}
    proto = model(
        "(float[N,3,8,8] x) => (float[N,16,4,4] y) { c = Conv(x, w) n = BN(c) y = Conv(n, v) }",
        **shapes,
        **batch_norm(16),
    )
    untouched = numpy_helper.to_array(proto.graph.initializer[1])
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert {name: at for name, at in places(tmp_path / "folded.onnx").items() if at} == {
        "w": "folded.onnx.data",
        "v": "folded.onnx.data",
    }
    same_function(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    folded = onnx.load(tmp_path / "folded.onnx")
    assert np.array_equal(numpy_helper.to_array(folded.graph.initializer[1]), untouched)

    fold_file(tmp_path / "model.onnx", tmp_path / "inside.onnx", external_data="never")
    assert not any(places(tmp_path / "inside.onnx").values())
    assert onnx.load(tmp_path / "inside.onnx").graph.node == folded.graph.node
    same_function(tmp_path / "model.onnx", tmp_path / "inside.onnx")


WITH_FUNCTION = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N,3,8,8] x) => (float[N,4,6,6] y)
{ f = local.F(x) c = Conv(f, w) y = BatchNormalization(c, gamma, beta, mean, var) }
<domain: "local", opset_import: ["": 17]>
F (x) => (y) { s = Sigmoid(x) k = Constant() y = Mul(s, k) }"""


def test_external_data_of_functions_and_sparse_tensors_goes_along(tmp_path):
    proto = model(WITH_FUNCTION, w=(4, 3, 3, 3), **batch_norm(4))
    table, sparse = numbers("k", (3, 8, 8)), np.array([1.5, 2.5], np.float32)
    held = proto.functions[0].node[1].attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    held.t.CopyFrom(numpy_helper.from_array(table, "k"))
    item = proto.graph.sparse_initializer.add(dims=[9])
    item.values.CopyFrom(numpy_helper.from_array(sparse, "sparse"))
    item.indices.CopyFrom(numpy_helper.from_array(np.array([1, 4])))
    data = b""
    for tensor in (held.t, item.values):
        set_external_data(tensor, "more.bin", len(data), len(tensor.raw_data))
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    source, target = tmp_path / "model" / "model.onnx", tmp_path / "other" / "folded.onnx"
    for path in (source, target):
        path.parent.mkdir()
    source.write_bytes(proto.SerializeToString())
    (source.parent / "more.bin").write_bytes(data)
    assert fold_file(source, target, external_data="always").plan.folded
    assert sorted(path.name for path in target.parent.iterdir()) == ["folded.onnx"]  # nothing of 1,024 bytes
    folded = onnx.load(target)
    assert np.array_equal(numpy_helper.to_array(folded.functions[0].node[1].attribute[0].t), table)
    assert np.array_equal(numpy_helper.to_array(folded.graph.sparse_initializer[0].values), sparse)


def test_tensors_can_be_moved_outside(tmp_path):
    proto = model(
        "(float[N,3,8,8] x) => (float[N,16,6,6] y) { c = Conv(x, w) y = BN(c) }", w=(16, 3, 3, 3), **batch_norm(16)
    )
    onnx.save(proto, tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx", external_data="always")
    assert places(tmp_path / "folded.onnx") == {"w": "folded.onnx.data", "c.bias": ""}
    same_function(tmp_path / "model.onnx", tmp_path / "folded.onnx")


def test_a_model_that_grows_over_the_limit_of_protobuf_moves_its_tensors_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_write, "_PROTOBUF_LIMIT", 1500)
    proto = model(
        "(float[N,3,8,8] x) => (float[N,16,6,6] y) { c = Conv(x, w) y = BN(c) }", w=(16, 3, 3, 3), **batch_norm(16)
    )
    onnx.save(proto, tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert places(tmp_path / "folded.onnx")["w"] == "folded.onnx.data"
    with pytest.raises(BnfoldError, match="2 GiB"):
        fold_file(tmp_path / "model.onnx", tmp_path / "other.onnx", external_data="never")
    assert not (tmp_path / "other.onnx").exists()


def test_a_data_file_never_takes_a_name_that_is_there(tmp_path):
    proto = model(
        "(float[N,3,8,8] x) => (float[N,16,6,6] y) { c = Conv(x, w) y = BN(c) }", w=(16, 3, 3, 3), **batch_norm(16)
    )
    onnx.save(proto, tmp_path / "model.onnx")
    for name in ("folded.onnx.data", "folded.onnx.2.data", "folded.onnx.3.data"):
        fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx", external_data="always")
        assert places(tmp_path / "folded.onnx")["w"] == name
        same_function(tmp_path / "model.onnx", tmp_path / "folded.onnx")


def test_in_place(tmp_path):
    proto = model(
        "(float[N,3,8,8] x) => (float[N,16,6,6] y) { c = Conv(x, w) y = BN(c) }", w=(16, 3, 3, 3), **batch_norm(16)
    )
    for name in ("model.onnx", "copy.onnx"):
        onnx.save(proto, tmp_path / name, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    with pytest.raises(BnfoldError, match="--in-place"):
        fold_file(tmp_path / "model.onnx", tmp_path / "model.onnx")
    fold_file(tmp_path / "model.onnx", in_place=True)
    assert kinds(onnx.load(tmp_path / "model.onnx")) == ["Conv"]
    same_function(tmp_path / "copy.onnx", tmp_path / "model.onnx")


def test_a_fold_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch):
    proto = model(
        "(float[N,3,8,8] x) => (float[N,16,6,6] y) { c = Conv(x, w) y = BN(c) }", w=(16, 3, 3, 3), **batch_norm(16)
    )
    onnx.save(proto, tmp_path / "model.onnx")
    (tmp_path / "folded.onnx").write_bytes(b"older")
    right = onnx_content.Scaled.scaled

    def wrong(content, block, before, scratch):
        return right(content, block, before, scratch) * np.float32(1.0000005)

    monkeypatch.setattr(onnx_content.Scaled, "scaled", wrong)
    with pytest.raises(BnfoldError, match=r"w: .*ULP"):
        fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx", external_data="always")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folded.onnx", "model.onnx"]
    assert (tmp_path / "folded.onnx").read_bytes() == b"older"


def test_a_dry_run_writes_nothing(tmp_path):
    onnx.save(model(TEXT, **SHAPES, **batch_norm(4)), tmp_path / "model.onnx")
    assert fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx", dry_run=True).plan.folded
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_large_weights_go_through_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_content, "BLOCK", 7)
    monkeypatch.setattr(onnx_content.blocks_of, "__defaults__", (7,))
    text = """(float[N,4,8,8] x) => (float[N,6,h,w] y)
    { c = Conv<group=2>(x, a) n = BN(c) r = Relu(n) d = ConvTranspose<group=2>(r, b) y = BN(d, 2) }"""
    proto = model(text, a=(6, 2, 3, 3), b=(6, 3, 2, 2), **batch_norm(6), **batch_norm(6, "2"))
    onnx.save(proto, tmp_path / "model.onnx")
    assert len(fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx").plan.folded) == 2
    feeds = {"x": numbers("x", (2, 4, 8, 8))}
    got, wanted = run(tmp_path / "folded.onnx", feeds)[0], run(tmp_path / "model.onnx", feeds)[0]
    assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


# What may not be read.


def external(folder, location, offset=0, length=432, name="w", data=None):
    """Write a model whose weight is said to be somewhere."""
    proto = model(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) y = BN(c) }", w=(4, 3, 3, 3), **batch_norm(4)
    )
    held = proto.graph.initializer[0]
    raw = held.raw_data
    set_external_data(held, location, offset, length)
    held.ClearField("raw_data")
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return raw if data is None else data


def links(folder):
    raw = external(folder, "w.bin")
    (folder.parent / "secret").write_bytes(raw)
    (folder / "w.bin").symlink_to(folder.parent / "secret")


def hard_links(folder):
    raw = external(folder, "w.bin")
    (folder.parent / "secret").write_bytes(raw)
    os.link(folder.parent / "secret", folder / "w.bin")


def folder_link(folder):
    raw = external(folder, "inner/w.bin")
    (folder.parent / "outer").mkdir()
    (folder.parent / "outer" / "w.bin").write_bytes(raw)
    (folder / "inner").symlink_to(folder.parent / "outer")


def pipe(folder):
    external(folder, "w.bin")
    os.mkfifo(folder / "w.bin")


def traversal(folder):
    (folder.parent / "w.bin").write_bytes(external(folder, "../w.bin"))


def absolute(folder):
    (folder.parent / "w.bin").write_bytes(external(folder, str(folder.parent / "w.bin")))


def truncated(folder):
    (folder / "w.bin").write_bytes(external(folder, "w.bin")[:-1])


def beyond(folder):
    (folder / "w.bin").write_bytes(external(folder, "w.bin", offset=4))


def far_beyond(folder):
    (folder / "w.bin").write_bytes(external(folder, "w.bin", offset=1 << 62))


def negative(folder):
    (folder / "w.bin").write_bytes(external(folder, "w.bin", offset=-4))


def windows(folder):
    external(folder, r"C:\secret")


def backslashes(folder):
    external(folder, r"..\secret")


def no_name(folder):
    external(folder, "")


UNSAFE = (links, hard_links, folder_link, pipe, traversal, absolute, truncated, beyond, far_beyond)
UNSAFE += (negative, windows, backslashes, no_name)


@pytest.mark.parametrize("make", UNSAFE)
def test_unsafe_data_is_refused(make, tmp_path):
    make(tmp_path / "model")
    with pytest.raises(UnsafeError) as caught:
        fold_file(tmp_path / "model" / "model.onnx", tmp_path / "folded.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "folded.onnx").exists()


def test_data_of_another_size_than_the_shape_says(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(external(tmp_path / "model", "w.bin", length=428))
    with pytest.raises(BnfoldError, match=r"\(4, 3, 3, 3\) of float32 wants 432"):
        fold_file(tmp_path / "model" / "model.onnx", tmp_path / "folded.onnx")


def test_data_that_is_not_there(tmp_path):
    external(tmp_path / "model", "w.bin")
    with pytest.raises(BnfoldError, match=r"w\.bin.*No such file"):
        fold_file(tmp_path / "model" / "model.onnx", tmp_path / "folded.onnx")


def test_data_that_overlaps(tmp_path):
    proto = model("(float[N,3] x) => (float[N,3] y) { c = Gemm(x, w) y = Gemm(c, v) }", w=(3, 3), v=(3, 3))
    for item, offset in zip(proto.graph.initializer, (0, 32), strict=True):
        set_external_data(item, "w.bin", offset, 36)
        item.ClearField("raw_data")
    (tmp_path / "w.bin").write_bytes(bytes(72))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UnsafeError, match="overlap"):
        fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")


def test_data_that_overlaps_under_two_names_of_one_file(tmp_path):
    proto = model("(float[N,3] x) => (float[N,3] y) { c = Gemm(x, w) y = Gemm(c, v) }", w=(3, 3), v=(3, 3))
    for item, location, offset in zip(proto.graph.initializer, ("w.bin", "./w.bin"), (0, 32), strict=True):
        set_external_data(item, location, offset, 36)
        item.ClearField("raw_data")
    (tmp_path / "w.bin").write_bytes(bytes(72))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UnsafeError, match="overlap"):
        fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")


@pytest.mark.parametrize("what", ["shape", "value"])
def test_what_a_constant_is_filled_with_is_not_looked_for_in_the_working_folder(what, tmp_path, monkeypatch):
    """Its shape, or its one number, is external data; ONNX's own helpers would open it where the command runs."""
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
    { f = ConstantOfShape<value = float[1] {1.0}>(s) c = Conv(x, w) n = BN(c) y = Mul(n, f) }"""
    proto = model(text, w=(4, 3, 3, 3), s=np.array([1, 4, 1, 1]), **batch_norm(4))
    filled, shape = proto.graph.node[0].attribute[0].t, proto.graph.initializer[1]
    tensor, data = {"shape": (shape, shape.raw_data), "value": (filled, np.ones(1, np.float32).tobytes())}[what]
    for name in ("raw_data", "float_data"):
        tensor.ClearField(name)
    tensor.raw_data = data
    set_external_data(tensor, "s.bin", 0, len(data))
    tensor.ClearField("raw_data")
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    for path, content in ((folder, data), (elsewhere, bytes(len(data)))):
        path.mkdir()
        (path / "s.bin").write_bytes(content)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    monkeypatch.chdir(elsewhere)
    plan = fold_file(folder / "model.onnx", folder / "folded.onnx").plan
    assert "n" in [outcome.affine for outcome in plan.folded]
    weight = numpy_helper.to_array(onnx.load(folder / "folded.onnx").graph.initializer[0])
    assert np.abs(weight).min() > 0


def test_the_cache_of_a_model_hub(tmp_path):
    """Its snapshots are links into one folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    raw = external(blobs, "w.bin")
    (blobs / "model.onnx").rename(blobs / "1f3a")
    (blobs / "77e2").write_bytes(raw)
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/1f3a")
    (snapshot / "w.bin").symlink_to("../../blobs/77e2")
    assert fold_file(snapshot / "model.onnx", tmp_path / "folded.onnx").plan.folded
    assert kinds(onnx.load(tmp_path / "folded.onnx")) == ["Conv"]


def test_a_proto_with_data_elsewhere_has_no_folder(tmp_path):
    external(tmp_path / "model", "w.bin")
    proto = onnx.load(tmp_path / "model" / "model.onnx", load_external_data=False)
    with pytest.raises(BnfoldError, match="give the path"):
        fold_proto(proto)
