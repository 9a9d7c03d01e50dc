"""Files that appear whole or not at all."""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from bnfold.errors import BnfoldError

_PERIOD = 0.01  # seconds between two flushes


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, which takes the name `path` when the block ends well.

    When the block raises, the temporary file is removed and `path` stays as it was. The new file keeps the
    permissions of the one that it replaces, and a link is followed, not replaced.
    Raises BnfoldError where the folder isn't there or can't be written to, or `path` is a folder.
    """
    final, temporary = _begin(path)
    try:
        yield temporary
        _flush(temporary)
        if final.exists():
            temporary.chmod(stat.S_IMODE(final.stat().st_mode))
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(final.parent)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise BnfoldError where `replacing(path)` would: before long work rather than after it."""
    _begin(path)[1].unlink()


def _begin(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Give the file behind `path`, and beside it an empty one."""
    if Path(path).is_dir():
        raise BnfoldError(f"{path}: is a folder; give the name of a file in it")
    final = Path(path).resolve()
    if final.exists() and not os.access(final, os.W_OK):
        raise BnfoldError(f"{path}: can't be written (it is write-protected); choose another name")
    # The suffix stays: some writers add it where it is missing.
    temporary = final.with_name(f".{final.stem[:100]}.{os.urandom(6).hex()}{final.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise BnfoldError(f"{path}: can't be written ({error.strerror}); choose or make another folder") from error
    return final, temporary


@contextlib.contextmanager
def reaching_disk(descriptor: int) -> Iterator[None]:
    """Let what is written in the block go to the disk meanwhile: the flush that follows has less to wait for.

    Raises OSError where the disk fails.
    """
    ended = threading.Event()
    failures: list[OSError] = []

    def sync() -> None:
        try:
            while not ended.wait(_PERIOD):
                os.fsync(descriptor)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


def _flush(file: Path) -> None:
    """Put the content on the disk before the name: after a power cut a renamed file can be empty otherwise."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _flush_folder(folder: Path) -> None:
    """Put the new name on the disk. Windows can't open folders, and needs it not."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
