"""Files that appear whole or not at all."""

import contextlib
import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import BnfoldError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STEM = 100  # bytes of a name: what is added to it must leave it below the 255 of most file systems
_PERIOD = 0.01  # seconds between two flushes


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, which takes the name `path` when the block ends well.

    When the block raises, the temporary file is removed and `path` stays as it was. The new file keeps the
    permissions of the one that it replaces, and a link is followed, not replaced. Into a device or a pipe
    (`/dev/stdout`) the whole is written when the block ends well.
    Raises BnfoldError where the folder isn't there or can't be written to, or `path` is a folder, or no room is left.
    """
    with _naming(path), _into(path) if is_special(path) else _beside(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of which file it is that the room wasn't enough."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        way_out = "make room or choose another folder"
        raise BnfoldError(f"{path}: can't be written ({error.strerror}); {way_out}") from error


@contextlib.contextmanager
def _beside(path: str | os.PathLike[str]) -> Iterator[Path]:
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


def check_writable(path: str | os.PathLike[str], *read: str | os.PathLike[str] | None) -> None:
    """Raise BnfoldError where `replacing(path)` would: before long work rather than after it.

    read: files that are read, or written otherwise; `path` may be none of them.
    """
    if is_special(path):
        return
    for other in read:
        if other is not None and _is_same(Path(path), Path(other)):
            raise BnfoldError(f"{path}: is read or written as something else too; give another name")
    _begin(path)[1].unlink()


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of the two isn't there
        return one.absolute() == other.absolute()


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether it is no file that another one could replace: a device, a pipe, or a name of an open file."""
    found = Path(path)
    try:
        if found.is_dir() or not found.exists():
            return False
        return not found.is_file() or found.absolute().parts[1:2] in (("dev",), ("proc",))
    except OSError:  # in a folder that may not be looked into
        return False


@contextlib.contextmanager
def _into(path: str | os.PathLike[str]) -> Iterator[Path]:
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / Path(path).name
        temporary.touch()
        yield temporary
        with temporary.open("rb") as source, Path(path).open("ab") as target:
            shutil.copyfileobj(source, target)


def _begin(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Give the file behind `path`, and beside it an empty one."""
    if str(path) == "-":
        raise BnfoldError("-: is no file; give a name, or /dev/stdout for a pipe")
    try:
        if Path(path).is_dir():
            raise BnfoldError(f"{path}: is a folder; give the name of a file in it")
        final = Path(path).resolve()
        if final.exists() and not os.access(final, os.W_OK):
            raise BnfoldError(f"{path}: can't be written (it is write-protected); choose another name")
        # The suffix stays: some writers add it where it is missing.
        stem = os.fsencode(final.stem)[:_STEM].decode(errors="ignore")
        temporary = final.with_name(f".{stem}.{os.urandom(6).hex()}{final.suffix}")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise BnfoldError(f"{path}: can't be written ({error.strerror}); choose or make another folder") from error
    except RuntimeError as error:  # Python's word for links that lead to one another
        raise BnfoldError(f"{path}: can't be written (a loop of links); choose another name") from error
    return final, temporary


class PatientFile(io.BufferedWriter):
    """A file to write to whose failure is raised by `close`: torch's writer of archives ends the process on one."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self._error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write, or remember that it failed."""
        if self._error is None:
            try:
                return super().write(data)
            except OSError as error:
                self._error = error
        return memoryview(data).nbytes

    def close(self) -> None:
        """Raise the first failure."""
        try:
            super().close()
        except OSError as error:
            self._error = self._error or error
        if self._error is not None:
            raise self._error


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
