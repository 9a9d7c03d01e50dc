"""Inputs: seeded, both signs, borders, sizes, scale; samples of the user's."""

import numpy as np
import pytest

from bnfold.checking.inputs import Sample, draw, explore
from bnfold.checking.providers import Target, parse_targets
from bnfold.checking.replay import load_replay, save_replay
from bnfold.checking.run import Options
from bnfold.checking.samples import first_arrays, read_samples
from bnfold.checking.subject import InputSpec, load_subject
from bnfold.errors import BnfoldError, UnverifiedError
from tests.checking.building import networks

IMAGE = InputSpec("x", "float32", ("N", 3, "H", "W"))
TOKENS = InputSpec("t", "int64", ("N", 7), limit=50)


def drawn(*specs, accepts=lambda feed: True, seed=0, scale=1.0):
    dimensions, assumed = explore(specs, accepts, seed)
    return list(draw(specs, dimensions, seed, scale)), assumed


def test_what_is_drawn():
    samples, assumed = drawn(IMAGE)
    by_name = {sample.name: sample.feed[0] for sample in samples}
    assert {sample.kind for sample in samples} == {"random", "zeros", "constant", "impulse"}
    assert {array.shape[0] for name, array in by_name.items() if name.startswith("random/")} == {8, 1, 3}
    assert by_name["random/8"].min() < 0 < by_name["random/8"].max()
    assert not by_name["zeros"].any()
    assert (by_name["positive"] >= 0).all()
    assert (by_name["negative"] <= 0).all()
    corner = by_name["impulse/start,end"]
    assert corner[:, :, 0, -1].all()
    assert np.count_nonzero(corner) == 3
    assert len([name for name in by_name if name.startswith("impulse")]) == 9
    assert by_name["smallest"].shape[2:] == (1, 1)
    assert by_name["largest"].shape[2:] == (65, 65)
    assert "H, W were run at 1, 32, 65" in assumed[0]


def test_the_same_seed_gives_the_same_numbers():
    first, again, other = (drawn(IMAGE, seed=seed)[0] for seed in (3, 3, 4))
    assert all(np.array_equal(a.feed[0], b.feed[0]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].feed[0], other[0].feed[0])


def test_sizes_that_the_model_refuses():
    def accepts(feed):
        return feed[0].shape[2] % 4 == 0 and feed[0].shape[2] >= 28

    samples, _ = drawn(IMAGE, accepts=accepts)
    assert {sample.feed[0].shape[2] for sample in samples} == {32, 64}


def test_a_model_that_takes_one_batch_size():
    samples, assumed = drawn(IMAGE, accepts=lambda feed: feed[0].shape[0] == 2)
    assert {sample.feed[0].shape[0] for sample in samples} == {2}
    assert "batch size 2 is the only one" in assumed[-1]


def test_nothing_is_accepted():
    with pytest.raises(UnverifiedError, match="give --inputs"):
        drawn(IMAGE, accepts=lambda feed: False)


def test_integers_stay_below_the_limit():
    samples, _ = drawn(TOKENS)
    tokens = np.concatenate([sample.feed[0].ravel() for sample in samples])
    assert tokens.min() >= 0
    assert 40 < tokens.max() < 50


def test_fixed_dimensions_are_kept():
    samples, _ = drawn(InputSpec("x", "float16", (4, 3, 5, 5)))
    assert {sample.feed[0].shape for sample in samples} == {(4, 3, 5, 5)}
    assert {sample.feed[0].dtype.name for sample in samples} == {"float16"}


def test_the_scale_is_what_the_first_norm_expects():
    network = next(network for network in networks() if network.name == "mlp")
    norm = network.layers[0].norm
    norm.var = norm.var * 1e4
    subject = load_subject(network.model())
    feed = (np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32),)
    assert 50 < subject.input_scale(feed) < 200


def test_a_seed_draws_something():
    with pytest.raises(BnfoldError, match="seed -1: wanted 0 or more"):
        Options(seed=-1)


class TestSamples:
    array = np.ones((2, 3, 4, 4))

    def test_kinds(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=self.array, other=self.array)
        np.save(tmp_path / "b.npy", self.array)
        for source, count in (
            (self.array, 1), ((self.array,), 1), ({"x": self.array}, 1), ([self.array, {"x": self.array}], 2),
            (tmp_path, 3), (str(tmp_path / "b.npy"), 1),
        ):  # fmt: skip
            found = list(read_samples(source, [IMAGE]))
            assert len(found) == count
            assert {sample.feed[0].dtype.name for sample in found} == {"float32"}
            first = first_arrays(source)
            assert (first["x"] if isinstance(first, dict) else first[0]).shape == (2, 3, 4, 4)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            pytest.param({"y": array, "z": array}, "the inputs are x, t", id="names"),
            pytest.param((array,), "1 arrays for 2 inputs", id="count"),
            pytest.param((array[:, :2], np.ones((2, 7), int)), "has shape", id="shape"),
            pytest.param((array, np.ones((2, 7))), "is of float64", id="dtype"),
        ],
    )
    def test_refused(self, source, message):
        with pytest.raises(BnfoldError, match=message):
            list(read_samples(source, [IMAGE, TOKENS]))

    def test_pickles_are_not_loaded(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{"code": "runs"}], dtype=object), allow_pickle=True)
        with pytest.raises(BnfoldError, match="can't be read as arrays"):
            list(read_samples(tmp_path / "a.npy", [IMAGE]))

    def test_nothing_is_no_sample(self, tmp_path):
        np.savez(tmp_path / "a.npz")
        with pytest.raises(BnfoldError, match="sample a has no array"):
            list(read_samples(tmp_path / "a.npz", [IMAGE]))

    def test_texts_are_no_sample(self):
        with pytest.raises(BnfoldError, match="x is of <U1; wanted numbers"):
            list(read_samples(np.full((2, 3, 4, 4), "a"), [IMAGE]))

    def test_a_replay_file_is_a_sample(self, tmp_path):
        array = self.array.astype(np.float32)
        spec = InputSpec("file", "float32", ("N", 3, 4, 4))  # which numpy.savez takes for its own argument
        save_replay(tmp_path / "a.npz", [spec], Sample("s", "random", (array,)))
        (sample,) = read_samples(tmp_path / "a.npz", [spec])
        np.testing.assert_array_equal(sample.feed[0], array)
        np.testing.assert_array_equal(load_replay(tmp_path / "a.npz").arrays["file"], array)


class TestProviders:
    def test_options_belong_to_the_provider_before(self):
        targets = parse_targets("cpu:level=basic,threads=2,cuda:use_tf32=0,device_id=1")
        assert targets == (
            Target("cpu", (("level", "basic"), ("threads", "2"))),
            Target("cuda", (("use_tf32", "0"), ("device_id", "1"))),
        )

    def test_cuda_is_judged_twice(self):
        assert parse_targets("cuda") == (Target("cuda", (("use_tf32", "0"),)), Target("cuda", (), "tf32"))
        assert parse_targets("cuda:use_tf32=1") == (Target("cuda", (("use_tf32", "1"),), "tf32"),)

    @pytest.mark.parametrize(("value", "mode"), [("0", ""), ("false", ""), ("False", ""), ("true", "tf32")])
    def test_tf32_that_is_off_has_no_wider_budget(self, value, mode):
        (target,) = parse_targets(f"CUDAExecutionProvider:use_tf32={value}")
        assert target.mode == mode

    def test_names(self):
        known = ("CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider")
        assert Target("CPU").full_name(known) == "CPUExecutionProvider"
        assert Target("CUDAExecutionProvider").full_name(known) == "CUDAExecutionProvider"
        assert Target("trt").full_name(known) == "TensorrtExecutionProvider"
        assert Target("cdua").full_name(known) is None
        assert Target("cdua").near(known) == ["cuda"]

    @pytest.mark.parametrize(
        "text",
        [
            "", "level=basic", "cpu:level=most", "cpu:threads=two", "cpu:quick", "cpu:levl=disable", "cpu:threads=²",
            "cuda:device_id=first", "cuda:use_tf32=off",
        ],
    )  # fmt: skip
    def test_refused(self, text):
        with pytest.raises(BnfoldError):
            parse_targets(text)


def test_large_inputs_are_fewer():
    small, large = (drawn(InputSpec("x", "float32", ("N", 3, size, size)))[0] for size in (32, 224))
    assert len(large) < len(small) - 5
    assert {sample.kind for sample in large} == {sample.kind for sample in small}
