"""Files appear whole or not at all."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from bnfold import atomic
from bnfold.atomic import PatientFile, check_writable, reaching_disk, replacing
from bnfold.errors import BnfoldError


def test_a_new_file_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "model.onnx"
    with replacing(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".onnx"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "stem", ["\u6f22" * 80, "x" * 245, os.fsdecode(b"\xff" * 200)], ids=["wide", "long", "no text"]
)
def test_a_name_of_any_length_that_the_system_takes(tmp_path, stem):
    target = tmp_path / f"{stem}.onnx"
    with replacing(target) as temporary:
        temporary.write_bytes(b"new")
        temporary.name.encode()  # who writes it may take nothing but text
    assert target.read_bytes() == b"new"


def test_a_loop_of_links_is_one_line(tmp_path):
    target = tmp_path / "loop"
    target.symlink_to(target)
    with pytest.raises(BnfoldError, match="a loop of links"):
        check_writable(target)


def fail_halfway(target, fault):
    with replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise fault


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_alone(tmp_path, fault):
    target = tmp_path / "model.pt"
    target.write_bytes(b"old")
    with pytest.raises(fault):
        fail_halfway(target, fault)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_those_of_the_old_file_or_of_any_new_one(tmp_path):
    plain, old, new = tmp_path / "plain", tmp_path / "old", tmp_path / "new"
    plain.touch()
    old.touch()
    old.chmod(0o604)
    for target in (old, new):
        with replacing(target) as temporary:
            temporary.write_bytes(b"x")
    assert old.stat().st_mode & 0o777 == 0o604
    assert new.stat().st_mode == plain.stat().st_mode


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_gets_the_whole_and_stays_one(tmp_path, linked):
    """So does a device: `-o /dev/null` must not put a file in its place."""
    pipe, target, got = tmp_path / "pipe", tmp_path / ("link" if linked else "pipe"), []
    os.mkfifo(pipe)
    if linked:
        target.symlink_to(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    check_writable(target)
    with replacing(target) as temporary:
        assert temporary.parent != tmp_path
        temporary.write_bytes(b"whole")
    reader.join()
    assert got == [b"whole"]
    assert pipe.is_fifo()
    assert set(tmp_path.iterdir()) == {pipe, target}


def test_what_goes_into_a_pipe_comes_only_when_the_block_ends_well(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="half"):
        fail_halfway(pipe, ValueError("half"))  # it would wait for a reader if it wrote


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_told_with_the_target_s_name(tmp_path, code):
    with pytest.raises(BnfoldError, match=rf"{tmp_path}/model.pt: can't be written \(.*\); make room"):
        fail_halfway(tmp_path / "model.pt", OSError(code, os.strerror(code), "elsewhere"))
    assert not list(tmp_path.iterdir())


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_device_is_told_by_its_name():
    with pytest.raises(BnfoldError, match=rf"{FULL}: can't be written \(No space left"), replacing(FULL) as temporary:
        temporary.write_bytes(b"new")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_patient_file_fails_at_its_end(size):
    file = PatientFile(FULL)
    assert file.write(bytes(size)) == size
    assert file.write(bytes(size)) == size
    with pytest.raises(OSError, match="No space left"):
        file.close()
    assert file.closed


def test_a_patient_file_writes(tmp_path):
    with PatientFile(tmp_path / "a") as file:
        file.write(b"first")
        file.write(memoryview(b"second"))
    assert (tmp_path / "a").read_bytes() == b"firstsecond"


def test_a_dash_is_no_name():
    with pytest.raises(BnfoldError, match="/dev/stdout"):
        check_writable("-")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "model.pt"
    target.write_bytes(b"old")
    link = tmp_path / "link.pt"
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("path", ["missing/model.pt", "."])
def test_a_place_that_can_not_be_written(tmp_path, path):
    for attempt in (check_writable, lambda target: replacing(target).__enter__()):
        with pytest.raises(BnfoldError, match=r"can't be written|is a folder"):
            attempt(tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def test_a_check_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_meanwhile_is_reported(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(atomic, "_PERIOD", 0.0)
    monkeypatch.setattr(os, "fsync", fail)
    with (
        (tmp_path / "file").open("wb") as file,
        pytest.raises(OSError, match="input/output"),
        reaching_disk(file.fileno()),
    ):
        time.sleep(0.05)


def test_what_fails_while_the_disk_works_is_raised_as_it_is(tmp_path):
    with (tmp_path / "file").open("wb") as file, pytest.raises(KeyError), reaching_disk(file.fileno()):
        raise KeyError
