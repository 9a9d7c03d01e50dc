"""Files of arrays that hold anything else."""

import io
import zipfile

import numpy as np
import pytest

from bnfold.arrays import NoArraysError, load_arrays
from bnfold.errors import BnfoldError

ARRAY = np.arange(1000.0)


def archive(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return content.getvalue()


def huge():
    """A header that asks for 364 TiB."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)})
    return archive({"x.npy": content.getvalue()})


def compressed():
    content = io.BytesIO()
    np.savez_compressed(content, x=ARRAY)
    return bytearray(content.getvalue())


def damaged():
    content = compressed()
    for i in range(60, 200):
        content[i] ^= 0x55
    return bytes(content)


def of_another_method():
    content = compressed()
    content[content.index(b"PK\x01\x02") + 10] = 77
    content[8] = 77
    return bytes(content)


FILES = {
    "empty": b"",
    "text": b"not arrays",
    "no array": archive({"x": b"abc"}),
    "huge": huge(),
    "damaged": damaged(),
    "another method": of_another_method(),
    "truncated": bytes(compressed()[:100]),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_what_holds_none(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(NoArraysError, match=r"a\.npz: "):
        load_arrays(path)


def test_what_is_there(tmp_path):
    np.savez(tmp_path / "a.npz", x=ARRAY, y=ARRAY[:2])
    np.save(tmp_path / "a.npy", ARRAY)
    assert list(load_arrays(tmp_path / "a.npz")) == ["x", "y"]
    assert list(load_arrays(tmp_path / "a.npz", ("y", "z"))) == ["y"]
    np.testing.assert_array_equal(load_arrays(tmp_path / "a.npy"), ARRAY)


@pytest.mark.parametrize(("name", "message"), [("none", "no such file"), ("", "is no file")])
def test_what_is_not_there(tmp_path, name, message):
    with pytest.raises(BnfoldError, match=message):
        load_arrays(tmp_path / name)
