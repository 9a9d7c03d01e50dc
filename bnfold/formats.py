"""Which kind of model file this is, by its content and never by its name; and whether it is safe to open."""

import struct
import zlib
from copy import copy
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bnfold.errors import BnfoldError, UnsafeError

if TYPE_CHECKING:
    import zipfile  # which brings every kind of compression; an ONNX file has no use for it

DEFAULT_MAX_BYTES = 16 << 30
_CHUNK = 1 << 20
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # the format's own


class Kind(Enum):
    """What a file holds. The value completes "PATH is ..."."""

    TORCH = "a PyTorch archive (torch.save)"
    TORCH_LEGACY = "a PyTorch file of the format before 1.6"
    PT2 = "an ExportedProgram (torch.export.save)"
    TORCHSCRIPT = "a TorchScript archive"
    SAFETENSORS = "a safetensors file"
    ONNX = "an ONNX model"


def kind_of(path: str | Path) -> Kind:
    """Tell the kind from the first bytes, or from an archive's list of entries.

    Raises BnfoldError for a missing, empty or unknown file.
    """
    path = Path(path)
    head = _head(path)
    if _is_safetensors(head):  # first: the length that it begins with may be any other's mark
        return Kind.SAFETENSORS
    if head[:4] == b"PK\x03\x04":
        return _archive_kind(path)
    if head[:1] == b"\x80":  # pickle's PROTO, protocol 2 and later
        return Kind.TORCH_LEGACY
    if _is_onnx(head):
        return Kind.ONNX
    raise BnfoldError(
        f"{path}: not a model file (it starts with {head[:8]!r}); wanted .pt, .pth, .pt2, .safetensors or .onnx"
    )


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise BnfoldError(f"{path}: is a folder; give a model file")
        if path.exists() and not path.is_file():  # which can't be read twice, or is waited for
            raise BnfoldError(f"{path}: is a device or a pipe; give a model file")
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise BnfoldError(f"{path}: no such file") from None
    except OSError as error:
        raise BnfoldError(f"{path}: can't be read ({error.strerror})") from error
    if not head:
        raise BnfoldError(f"{path}: is empty")
    return head


def _is_safetensors(head: bytes) -> bool:
    if len(head) < 10 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return bool(2 <= length <= _SAFETENSORS_HEADER_LIMIT)


def _is_onnx(head: bytes) -> bool:
    """ModelProto's first field on the wire: ir_version (a small varint), or, out of order, a string or an opset."""
    first = head[0]
    if first == 0x08:
        return len(head) > 1 and 1 <= head[1] <= 0x7F
    return first in (0x12, 0x1A, 0x22, 0x32, 0x3A, 0x42) and len(head) > 8 and not head.isascii()


def _archive_kind(path: Path) -> Kind:
    names = _entries(path)
    inner = {name.partition("/")[2] for name in names} | set(names)
    if "archive_format" in inner or any(name.startswith("models/") and name.endswith(".json") for name in inner):
        return Kind.PT2
    if "serialized_exported_program.json" in inner:
        return Kind.PT2
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return Kind.TORCHSCRIPT
    if "data.pkl" in inner:
        return Kind.TORCH
    raise BnfoldError(f"{path}: a zip archive, but not a model: it has no data.pkl (entries: {_some(names)})")


def _damage() -> tuple[type[Exception], ...]:
    """What zipfile raises at a damaged archive."""
    from zipfile import BadZipFile

    return BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError


def _entries(path: Path) -> list[str]:
    from zipfile import ZipFile

    try:
        with ZipFile(path) as archive:
            return archive.namelist()
    except _damage() as error:
        raise BnfoldError(f"{path}: a damaged or truncated archive ({error})") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def inspect_archive(path: str | Path, max_bytes: int | None = None) -> None:
    """Read a zip archive's directory and every byte of it once, before anything else opens it.

    Raises BnfoldError where a CRC or a size is wrong, and UnsafeError where the entries add up to more than
    `max_bytes` (default 16 GiB), are compressed (torch.save never does), or hold the same name twice.
    """
    from zipfile import ZipFile

    path = Path(path)
    limit = DEFAULT_MAX_BYTES if max_bytes is None else max_bytes
    _entries(path)
    with ZipFile(path) as archive:
        infos = archive.infolist()
        _check_sizes(path, infos, limit)
        for info in infos:
            check_entry(path, archive, info)


def _check_sizes(path: Path, infos: "list[zipfile.ZipInfo]", limit: int) -> None:
    from zipfile import ZIP_STORED

    total = sum(info.file_size for info in infos)
    if total > limit:
        raise UnsafeError(f"{path}: unpacks to {total:,} bytes, more than the {limit:,} allowed; raise --max-bytes")
    if any(info.compress_type != ZIP_STORED and info.file_size > 64 * _CHUNK for info in infos):
        ratio = total / max(path.stat().st_size, 1)
        if ratio > 100:
            raise UnsafeError(f"{path}: unpacks to {ratio:.0f} times its size; torch.save doesn't compress")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise UnsafeError(f"{path}: holds two entries of one name, which readers resolve differently")


def open_entry(archive: "zipfile.ZipFile", info: "zipfile.ZipInfo") -> IO[bytes]:
    """Open one entry; zipfile compares CRC-32 and length at its end. torch.save may compute none, and leaves a 0."""
    entry = copy(info)
    if not info.CRC:
        entry.CRC = None  # type: ignore[assignment]  # the word of zipfile for "not known"
    return archive.open(entry)


def content_of(archive: "zipfile.ZipFile", name: str) -> bytes:
    """Read one entry, whole."""
    with open_entry(archive, archive.getinfo(name)) as entry:
        return entry.read()


def check_entry(path: Path, archive: "zipfile.ZipFile", info: "zipfile.ZipInfo") -> None:
    """Read one entry to its end. Raises BnfoldError where its CRC or length is wrong."""
    try:
        with open_entry(archive, info) as entry:
            while entry.read(_CHUNK):
                pass
    except _damage() as error:
        raise BnfoldError(f"{path}: entry {info.filename!r} is damaged ({error})") from error
