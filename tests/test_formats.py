"""The kind of a file is told by its content, whatever its name."""

import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
from onnx import parser

from bnfold.errors import BnfoldError, UnsafeError
from bnfold.formats import Kind, inspect_archive, kind_of


def archive(path: Path, *names: str, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name in names:
            file.writestr(name, b"content of " + name.encode() * 9)
    return path


ARCHIVES = [
    (("m/data.pkl", "m/data/0"), Kind.TORCH),
    (("m/archive_format", "m/models/model.json"), Kind.PT2),
    (("serialized_exported_program.json", "serialized_state_dict.pt"), Kind.PT2),
    (("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), Kind.TORCHSCRIPT),
]


@pytest.mark.parametrize(("names", "kind"), ARCHIVES)
def test_archives_are_told_by_their_entries(tmp_path, names, kind):
    assert kind_of(archive(tmp_path / "model.onnx", *names)) is kind


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BnfoldError, match="is a device or a pipe"):
        kind_of(tmp_path / "pipe")


@pytest.mark.parametrize("length", [54, 128, 0x0E80, 0x4B50, 0x0108])
def test_safetensors_with_a_header_of_any_length(tmp_path, length):
    """The length is the first byte of the file: 128 is pickle's mark as well, 8 that of an ONNX file."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    for cut in (len(content), 20):  # what is cut off is told by who reads it
        (tmp_path / "weights").write_bytes(content[:cut])
        assert kind_of(tmp_path / "weights") is Kind.SAFETENSORS


def test_an_onnx_file(tmp_path):
    text = "agraph (float[2] x) => (float[2] y) { y = Relu(x) }"
    model = onnx.helper.make_model(parser.parse_graph(text))
    (tmp_path / "model.pt").write_bytes(model.SerializeToString())
    assert kind_of(tmp_path / "model.pt") is Kind.ONNX


REFUSED = [
    pytest.param(b"", "is empty", id="empty"),
    pytest.param(b"hello, world\n", "not a model file", id="text"),
    pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(60), "not a model file", id="png"),
    pytest.param(b"PK\x03\x04" + bytes(60), "damaged or truncated archive", id="zip header alone"),
    pytest.param(b"GIF89a" + bytes(60), "not a model file", id="gif"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_what_is_no_model(tmp_path, content, message):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(BnfoldError, match=message):
        kind_of(tmp_path / "model.pt")


def test_missing_files_folders_and_other_archives(tmp_path):
    with pytest.raises(BnfoldError, match="no such file"):
        kind_of(tmp_path / "model.pt")
    with pytest.raises(BnfoldError, match="is a folder"):
        kind_of(tmp_path)
    with pytest.raises(BnfoldError, match=r"has no data\.pkl \(entries: a\.txt\)"):
        kind_of(archive(tmp_path / "model.pt", "a.txt"))


def test_a_flipped_byte_is_found(tmp_path):
    path = archive(tmp_path / "model.pt", "m/data.pkl", "m/data/0")
    inspect_archive(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"content of m/data/0") + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BnfoldError, match=r"'m/data/0' is damaged"):
        inspect_archive(path)


def test_sizes_are_added_up_before_anything_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", bytes(80 << 20))
    with pytest.raises(UnsafeError, match="times its size"):
        inspect_archive(tmp_path / "model.pt")
    with pytest.raises(UnsafeError, match="--max-bytes"):
        inspect_archive(tmp_path / "model.pt", max_bytes=1 << 20)


def test_telling_kinds_needs_no_torch(tmp_path):
    path = archive(tmp_path / "model.pt", "m/data.pkl")
    code = f"import sys; sys.modules['torch'] = None; from bnfold.formats import kind_of; print(kind_of({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Kind.TORCH"
