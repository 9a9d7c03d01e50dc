"""Whole runs: every network learns, equal settings give equal bits, and an interruption costs nothing."""

import contextlib
import json
import signal
import threading

import numpy as np
import pytest
import torch

import bnfold.training
from bnfold.errors import BnfoldError
from bnfold.models import ARCHITECTURES
from bnfold.training import TrainingInterrupted, checkpoint, resume, train
from bnfold.training.interruption import Interruption
from bnfold.training.outputs import Outputs
from bnfold.training.progress import Progress, Watcher

# Eleven batches of 4 or 3 images: cut short, dropout and data order would show.
TINY = {"epochs": 4, "batch_size": 4, "schedule": "cosine"}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Four classes that a bright bar tells apart, with noise: 41 images to train, 12 held out."""
    random = np.random.default_rng(4)
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    labels = np.arange(53) % 4
    images = random.integers(0, 120, (53, 8, 8), np.uint8)
    images[np.arange(53), 2 * labels] += 120
    np.savez(path, x_train=images[:41], y_train=labels[:41], x_test=images[41:], y_test=labels[41:])
    return f"npz:{path}"


class StopAt(Progress):
    """Presses Ctrl-C after a batch."""

    def __init__(self, epoch, batch):
        self.at = (epoch, batch)

    @contextlib.contextmanager
    def shown(self, settings, history):
        watcher = Watcher()
        watcher.batch_done = self.batch_done
        yield watcher

    def batch_done(self, epoch, batch, batches, totals):
        if (epoch, batch) == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_trains(tiny, name):
    result = train(name, data=tiny, epochs=1, batch_size=16)
    (epoch,) = result.history
    assert np.isfinite([epoch.train_loss, epoch.test_loss]).all()
    assert not result.model.training
    assert result.checkpoint.metrics["epoch"] == 1
    assert result.outputs is None
    fresh = checkpoint.Checkpoint.skeleton(result.checkpoint)
    assert set(fresh.state_dict()) == set(result.checkpoint.state_dict)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_reaches_97_percent_on_the_digits(name):
    assert train(name).best.test_score >= 0.97


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
def test_it_learns(tiny, optimiser):
    result = train("mlp", data=tiny, epochs=8, batch_size=8, optimiser=optimiser)
    assert result.best.test_score == 1.0
    assert result.history[-1].train_loss < 0.3 * result.history[0].train_loss


def test_the_autoencoder_reconstructs(tiny):
    result = train("autoencoder", data=tiny, epochs=8, batch_size=8)
    assert result.score_name == "explained"
    assert result.best.test_score > 0.5
    assert "test_explained" in result.checkpoint.metrics


def test_figures_are_those_of_the_model_that_is_returned(tiny):
    result = train("convnet", data=tiny, **TINY)
    data = np.load(tiny.removeprefix("npz:"))
    from bnfold.training.data.shaping import normalise_, to_inputs

    x = normalise_(
        to_inputs(data["x_test"][:, None], 255.0, (1, 28, 28)), result.checkpoint.mean, result.checkpoint.std
    )
    with torch.no_grad():
        logits = result.model(x)
    assert (logits.argmax(1).numpy() == data["y_test"]).mean() == result.best.test_score
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data["y_test"]))
    assert loss.item() == pytest.approx(result.best.test_loss, rel=1e-5)


def test_the_best_epoch_is_kept_and_not_the_last(tiny, tmp_path):
    settings = {"learning_rate": 0.5, "schedule": "constant", "optimiser": "sgd", "epochs": 8, "batch_size": 4}
    result = train("mlp", data=tiny, output=tmp_path / "model.pt", **settings)
    merits = [(epoch.test_score, -epoch.test_loss) for epoch in result.history]
    best = 1 + merits.index(max(merits))
    assert 1 < best < 8
    assert result.best.epoch == best
    assert checkpoint.read(tmp_path / "model.pt").metrics["epoch"] == best
    assert checkpoint.read(tmp_path / "model.last.pt").metrics["epoch"] == 8


def test_batch_norm_settings_are_part_of_the_checkpoint(tiny, tmp_path):
    train("convnet", data=tiny, output=tmp_path / "model.pt", epochs=1, bn_eps=0.01, bn_momentum=0.3)
    norm = checkpoint.read(tmp_path / "model.pt").model().layer1[1]
    assert (norm.eps, norm.momentum) == (0.01, 0.3)


def test_files(tiny, tmp_path):
    result = train("mlp", data=tiny, output=tmp_path / "model.pt", **TINY)
    names = {"model.pt", "model.last.pt", "model.resume.pt", "model.jsonl", "model.svg"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert checkpoint.read(tmp_path / "model.pt").metrics == result.best.metrics("classify")
    assert checkpoint.read(tmp_path / "model.last.pt").metrics["epoch"] == 4
    lines = [json.loads(line) for line in (tmp_path / "model.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start"] + ["epoch"] * 4
    assert lines[0]["settings"]["batch_size"] == 4
    assert [line["test_accuracy"] for line in lines[1:]] == [epoch.test_score for epoch in result.history]
    assert (tmp_path / "model.svg").read_text().startswith("<svg")


def bits(folder):
    return {name: (folder / name).read_bytes() for name in ("model.pt", "model.last.pt")}


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_callers_random_state(tiny, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        torch.manual_seed(hash(name) % 1000)
        before = torch.get_rng_state()
        train("convnet", data=tiny, output=tmp_path / name / "model.pt", seed=seed, **TINY)
        assert torch.equal(torch.get_rng_state(), before)
    assert bits(tmp_path / "one") == bits(tmp_path / "same")
    assert bits(tmp_path / "one") != bits(tmp_path / "other")


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "stop",
    [
        pytest.param((2, 11), id="after an epoch"),
        pytest.param((3, 5), id="within an epoch"),
        pytest.param((1, 1), id="after the first batch"),
    ],
)
def test_an_interrupted_run_ends_with_the_bits_of_one_that_was_not(tiny, tmp_path, stop, optimiser):
    settings = {"data": tiny, "optimiser": optimiser, **TINY}
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train("convnet", output=tmp_path / "whole" / "model.pt", **settings)
    with pytest.raises(TrainingInterrupted, match=r"continue with --resume"):
        train("convnet", output=tmp_path / "parts" / "model.pt", progress=StopAt(*stop), **settings)
    torch.rand(7)
    parts = resume(tmp_path / "parts" / "model.pt")
    assert bits(tmp_path / "whole") == bits(tmp_path / "parts")
    assert [epoch.metrics("classify") for epoch in parts.history] == [e.metrics("classify") for e in whole.history]
    events = [json.loads(line)["event"] for line in (tmp_path / "parts" / "model.jsonl").read_text().splitlines()]
    assert events == ["start"] + ["epoch"] * 4


def test_two_epochs_and_two_more_are_four(tiny, tmp_path):
    settings = {"data": tiny, "batch_size": 4, "schedule": "constant"}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        train("convnet", output=tmp_path / name / "model.pt", epochs=4 if name == "whole" else 2, **settings)
    assert bits(tmp_path / "whole") != bits(tmp_path / "parts")
    resume(tmp_path / "parts" / "model.pt", epochs=4)
    assert bits(tmp_path / "whole") == bits(tmp_path / "parts")


def test_what_an_interruption_saves_can_be_loaded(tiny, tmp_path):
    with pytest.raises(TrainingInterrupted, match="epoch 1, after batch 3 of 11"):
        train("mlp", data=tiny, output=tmp_path / "model.pt", progress=StopAt(1, 3), **TINY)
    assert checkpoint.read(tmp_path / "model.last.pt").metrics == {"epoch": 0}
    checkpoint.read(tmp_path / "model.last.pt").model()
    assert not (tmp_path / "model.pt").exists()


def test_an_interruption_without_a_place_to_save(tiny):
    with pytest.raises(TrainingInterrupted, match=r"batch 3 of 11$"):
        train("mlp", data=tiny, progress=StopAt(1, 3), **TINY)


def test_the_resume_state_is_safe_to_load(tiny, tmp_path):
    train("mlp", data=tiny, output=tmp_path / "model.pt", epochs=1)
    content = torch.load(tmp_path / "model.resume.pt", weights_only=True)
    assert content["format"] == "bnfold.resume"


def test_a_finished_run_has_nothing_to_continue_and_changes_nothing(tiny, tmp_path):
    result = train("mlp", data=tiny, output=tmp_path / "model.pt", epochs=2)
    before = bits(tmp_path)
    again = resume(tmp_path / "model.pt")
    assert again.history == result.history
    assert bits(tmp_path) == before


def spoil(folder, **changes):
    content = torch.load(folder / "model.resume.pt", weights_only=True)
    torch.save({**content, **changes}, folder / "model.resume.pt")


def spoil_loop(folder, **changes):
    content = torch.load(folder / "model.resume.pt", weights_only=True)
    spoil(folder, loop={**content["loop"], **changes})


SPOILT = [
    pytest.param(lambda folder: (folder / "model.resume.pt").unlink(), "no run to continue", id="missing"),
    pytest.param(lambda folder: (folder / "model.resume.pt").write_text("x"), "not an archive", id="text"),
    pytest.param(lambda folder: spoil(folder, format="x"), "is not the state of a run", id="another format"),
    pytest.param(lambda folder: spoil(folder, settings={}), "settings of the run are malformed", id="settings"),
    pytest.param(lambda folder: spoil(folder, history=None), "has no history", id="history"),
    pytest.param(lambda folder: spoil(folder, history=[{}]), "state of the run is malformed", id="epochs"),
    pytest.param(lambda folder: spoil(folder, loop={}), "state of the run is malformed", id="loop"),
    pytest.param(lambda folder: spoil_loop(folder, epoch="1"), "state of the run is malformed", id="epoch for a text"),
    pytest.param(lambda folder: spoil_loop(folder, batch=10**6), "state of the run is malformed", id="batch"),
    pytest.param(lambda folder: spoil(folder, history=[]), "state of the run is malformed", id="epochs lost"),
    pytest.param(lambda folder: spoil(folder, best=None), "state of the run is malformed", id="best lost"),
    pytest.param(lambda folder: spoil(folder, data="x"), "has changed since the run began", id="other data"),
]


@pytest.mark.parametrize(("change", "message"), SPOILT)
def test_a_state_that_can_not_be_continued(tiny, tmp_path, change, message):
    train("mlp", data=tiny, output=tmp_path / "model.pt", epochs=2)
    before = bits(tmp_path)
    change(tmp_path)
    with pytest.raises(BnfoldError, match=message):
        resume(tmp_path / "model.pt", epochs=3)
    assert bits(tmp_path) == before


def test_fewer_epochs_than_are_done(tiny, tmp_path):
    train("mlp", data=tiny, output=tmp_path / "model.pt", epochs=2)
    with pytest.raises(BnfoldError, match="2 epochs are done"):
        resume(tmp_path / "model.pt", epochs=1)


def test_a_run_that_diverges_leaves_the_old_files_alone(tiny, tmp_path):
    train("mlp", data=tiny, output=tmp_path / "model.pt", epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BnfoldError, match=r"diverged in epoch 1: .*lower the learning rate"):
        train("autoencoder", data=tiny, output=tmp_path / "model.pt", learning_rate=1e30, optimiser="sgd")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


PLACES = [("missing/model.pt", "can't be written"), ("model.onnx", "name ends in .pt"), ("m.last.pt", "ends in .pt")]


@pytest.mark.parametrize(("place", "message"), PLACES)
def test_places_that_can_not_be_written(tiny, tmp_path, place, message):
    with pytest.raises(BnfoldError, match=message):
        train("mlp", data=tiny, output=tmp_path / place, progress=StopAt(1, 1))
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_files(tmp_path):
    outputs = Outputs.beside(tmp_path / "a.b.pth")
    assert outputs.last.name == "a.b.last.pth"
    assert outputs.log.name == "a.b.jsonl"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "warp", "meta"])
def test_a_device_that_is_not_there(tiny, device):
    with pytest.raises(BnfoldError, match=f"device '{device}': can't be used"):
        train("mlp", data=tiny, device=device)


def test_arguments_of_the_network(tiny):
    result = train("mlp", data=tiny, epochs=1, arguments={"width": 8})
    assert result.model.fc1.out_features == 8
    assert result.checkpoint.model().fc1.out_features == 8


def test_the_second_interrupt_raises_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_threads_are_set_for_the_run_alone(tiny):
    before = torch.get_num_threads()
    seen = []

    class Look(StopAt):
        def batch_done(self, *_):
            seen.append(torch.get_num_threads())

    train("mlp", data=tiny, epochs=1, threads=before + 1, progress=Look(1, 1))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_other_threads_can_train(tiny):
    results = []
    thread = threading.Thread(target=lambda: results.append(train("mlp", data=tiny, epochs=1)))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_the_package_gives_its_functions_lazily():
    assert bnfold.training.train is train
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = bnfold.training.fit
