"""External data: files beside the model, and what makes them safe to open."""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from bnfold.adapters.onnx_wire import Source, fill
from bnfold.errors import BnfoldError, UnsafeError
from bnfold.record import record


class DataFile(Source):
    """A file of external data, opened for each read: a model can have thousands of them."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.size = path, name, path.stat().st_size

    def open(self) -> int:
        """Open for reading, without waiting where the file has become a pipe."""
        return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)

    def read(self, start: int, count: int) -> bytes:
        """Read from the file."""
        handle = self.open()
        try:
            parts = []
            while count > 0 and (part := os.pread(handle, min(count, 1 << 30), start)):
                parts.append(part)
                start, count = start + len(part), count - len(part)
            return b"".join(parts)
        finally:
            os.close(handle)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer from the file, without a copy between."""
        handle = self.open()
        try:
            full = fill(handle, start, buffer)
        finally:
            os.close(handle)
        if not full:
            raise self._too_short(start + len(buffer))


@record
class Place:
    """Where a tensor's bytes are in external data."""

    location: str
    offset: int
    length: int | None


class Folder:
    """The folder that a model's external data must stay in, and the files of it that were asked for."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self._allowed = (model.parent.resolve(), model.resolve().parent)  # a model hub's cache links both into one
        self._files: dict[str, DataFile] = {}

    def file(self, location: str) -> DataFile:
        """Open a data file by the name that the model gives. Raises UnsafeError where that leads out of the folder."""
        if location not in self._files:
            self._files[location] = self._checked(location)
        return self._files[location]

    def keep_from(self, target: Path) -> None:
        """Raise BnfoldError where `target` is a data file of the model, which writing it would destroy."""
        if any(file.path == target.resolve() for file in self._files.values()):
            raise BnfoldError(f"{target}: holds the weights of {self.model}; give another name")

    def _checked(self, location: str) -> DataFile:
        self._refuse_name(location)
        path = self.model.parent / location
        try:
            real = path.resolve(strict=True)
            status = real.stat()
        except (OSError, RuntimeError) as error:
            raise BnfoldError(f"{self.model}: its data file {location!r} can't be read ({_reason(error)})") from error
        if not any(real.is_relative_to(folder) for folder in self._allowed):
            raise UnsafeError(f"{self.model}: its data file {location!r} is a link out of the model's folder")
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeError(f"{self.model}: its data file {location!r} is not a regular file")
        if status.st_nlink > 1:
            raise UnsafeError(
                f"{self.model}: its data file {location!r} is hard-linked to another name; copy the file first"
            )
        return DataFile(real, str(path))

    def _refuse_name(self, location: str) -> None:
        windows = PureWindowsPath(location)
        parts = (*PurePosixPath(location).parts, *windows.parts)
        unfit = not location or "\0" in location or location.startswith(("/", "\\")) or bool(windows.drive)
        if unfit or ".." in parts:
            raise UnsafeError(f"{self.model}: its data file {location!r} is outside the model's folder")


def _reason(error: OSError | RuntimeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "a loop of links"
