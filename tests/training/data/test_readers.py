"""Every kind of data: sound corpora come back as written, broken ones get one clear line."""

import gzip
import struct
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from bnfold.errors import BnfoldError, UnsafeError
from bnfold.training.data import read
from bnfold.training.data.dataset import held_out
from tests.training.data.corpora import NAMES, arrays, idx_bytes, write_folder, write_idx, write_image

SIZE = (8, 8)


def test_digits():
    dataset = read("digits", SIZE)
    assert dataset.train_images.shape == (1438, 1, 8, 8)
    assert dataset.test_images.shape == (359, 1, 8, 8)
    assert dataset.train_images.max() == dataset.peak == 16
    assert dataset.classes == tuple("0123456789")
    assert set(dataset.test_labels) == set(range(10))
    assert dataset.fingerprint() == read("digits", SIZE).fingerprint()


def test_held_out_is_a_fifth_of_each_class_and_always_the_same():
    labels = np.array([0] * 50 + [1] * 10 + [2] * 2)
    mask = held_out(labels, "data")
    assert [int(mask[labels == label].sum()) for label in range(3)] == [10, 2, 1]
    assert_array_equal(mask, held_out(labels, "data"))
    assert not mask[:50].all()


@pytest.mark.parametrize("compressed", [False, True])
def test_idx(tmp_path, compressed):
    dataset = read(f"idx:{write_idx(tmp_path / 'mnist', compressed=compressed)}", SIZE)
    wanted = arrays()
    assert_array_equal(dataset.train_images[:, 0], wanted["x_train"])
    assert_array_equal(dataset.train_labels, wanted["y_train"])
    assert_array_equal(dataset.test_images[:, 0], wanted["x_test"])
    assert_array_equal(dataset.test_labels, wanted["y_test"])
    assert dataset.classes == tuple("0123")
    assert dataset.peak == 255


def test_idx_with_a_dot_in_its_names(tmp_path):
    write_idx(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(read(f"idx:{tmp_path}", SIZE).train_labels) == 20


@pytest.mark.parametrize(
    ("layout", "back"),
    [
        pytest.param(lambda x: x[..., 0], lambda x: x[:, :1], id="N H W"),
        pytest.param(lambda x: x, lambda x: x, id="N H W C"),
        pytest.param(lambda x: x.transpose(0, 3, 1, 2), lambda x: x, id="N C H W"),
        pytest.param(lambda x: (x / 255).astype(np.float32), lambda x: (x / 255).astype(np.float32), id="floating"),
    ],
)
def test_npz(tmp_path, layout, back):
    content = arrays(shape=(9, 7, 3))
    images = {key: layout(content[key]) for key in ("x_train", "x_test")}
    np.savez_compressed(tmp_path / "data.npz", **{**content, **images, "y_train": content["y_train"][:, None]})
    dataset = read(f"npz:{tmp_path / 'data.npz'}", SIZE)
    assert_array_equal(dataset.train_images, back(content["x_train"].transpose(0, 3, 1, 2)))
    assert_array_equal(dataset.train_labels, content["y_train"])
    assert dataset.peak == (255 if dataset.train_images.dtype == np.uint8 else 1)


def test_npz_names_its_classes(tmp_path):
    np.savez(tmp_path / "data.npz", **arrays(), classes=np.array(["a", "b", "c", "d"]))
    assert read(f"npz:{tmp_path / 'data.npz'}", SIZE).classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_folder(tmp_path, mode, channels):
    root = write_folder(tmp_path / "pets", mode=mode)
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    dataset = read(f"folder:{root}", SIZE)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train_images.shape == (8, channels, *SIZE)
    assert dataset.test_images.shape == (2, channels, *SIZE)
    assert_array_equal(np.bincount(dataset.train_labels), [4, 4])


def test_folder_of_one_size_comes_back_as_written(tmp_path):
    for name in "ab":
        for index in range(2):
            write_image(tmp_path / name / f"{index}.png", size=(8, 8), mode="RGB", seed=index + (name == "b") * 2)
    dataset = read(f"folder:{tmp_path}", SIZE)
    written = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in tmp_path.glob("a/*.png")}
    got = [*dataset.train_images[dataset.train_labels == 0], *dataset.test_images[dataset.test_labels == 0]]
    assert {image.tobytes() for image in got} == written


def test_folder_in_two_parts(tmp_path):
    write_folder(tmp_path / "train", each=3)
    write_folder(tmp_path / "val", each=2)
    dataset = read(f"folder:{tmp_path}", SIZE)
    assert len(dataset.train_images) == 6
    assert len(dataset.test_images) == 4


def put(name, content):
    def write(root):
        write_idx(root)
        (root / name).write_bytes(content)

    return write


IMAGES, LABELS = NAMES["x_train"], NAMES["y_train"]
SOUND = idx_bytes(arrays()["x_train"])
IDX = [
    pytest.param(lambda root: None, "no such folder", id="no folder"),
    pytest.param(lambda root: root.mkdir(), "has no train-images-idx3-ubyte or", id="no files"),
    pytest.param(put(IMAGES, SOUND[:-1]), "claims 20 x 9 x 7 = 1260 bytes and has 1259", id="truncated"),
    pytest.param(put(IMAGES, SOUND + b"x"), "has more", id="too long"),
    pytest.param(put(IMAGES, SOUND[:9]), "ends within its header", id="truncated header"),
    pytest.param(put(IMAGES, b""), "begins with nothing", id="empty"),
    pytest.param(put(IMAGES, b"<html>" + SOUND), "begins with 3c68746d, not 00000803", id="a web page"),
    pytest.param(put(LABELS, SOUND), "begins with 00000803, not 00000801", id="images for labels"),
    pytest.param(put(IMAGES, idx_bytes(arrays(train=21)["x_train"])), "21 images and 20 labels", id="counts disagree"),
    pytest.param(put(NAMES["x_test"], idx_bytes(arrays(shape=(9, 8))["x_test"])), "not (1, 9, 7)", id="sizes disagree"),
    pytest.param(put(IMAGES, b"\0\0\x08\3" + struct.pack(">3I", 0, 9, 7)), "0 images and 20 labels", id="no images"),
    pytest.param(put(IMAGES, b"\0\0\x08\3" + struct.pack(">3I", 20, 0, 7)), "is empty", id="no pixels"),
    pytest.param(put(IMAGES, idx_bytes(np.full((20, 9, 7), 3, np.uint8))), "all pixels are 3", id="constant"),
]


def put_gz(content):
    def write(root):
        write_idx(root, compressed=True)
        (root / f"{IMAGES}.gz").write_bytes(content)

    return write


IDX += [
    pytest.param(put_gz(gzip.compress(SOUND)[:-20]), "can't be read", id="truncated gz"),
    pytest.param(put_gz(SOUND), "can't be read", id="raw under the name of a gz"),
    pytest.param(put_gz(gzip.compress(SOUND)[:40] + b"\xff" * 40), "can't be read", id="damaged gz"),
    pytest.param(put_gz(gzip.compress(SOUND[:-1])), "and has 1259", id="truncated within gz"),
]


def put_npz(**changes):
    def write(path):
        np.savez(path, **{key: value for key, value in {**arrays(), **changes}.items() if value is not None})

    return write


NPZ = [
    pytest.param(lambda path: None, "no such file", id="missing"),
    pytest.param(lambda path: path.touch(), "can't be read", id="empty"),
    pytest.param(lambda path: path.write_text("hello"), "can't be read", id="text"),
    pytest.param(lambda path: np.savez(path, a=np.zeros(2)), "has no x_train, y_train, x_test, y_test", id="others"),
    pytest.param(put_npz(y_test=None), "has no y_test; it holds x_train", id="one missing"),
    pytest.param(put_npz(x_train=np.array([{}] * 20)), "can't be read", id="pickled"),
    pytest.param(put_npz(x_train=np.zeros((20, 63), np.uint8)), "images are (N, H, W)", id="flat images"),
    pytest.param(put_npz(x_train=np.zeros((20, 9, 7), np.int64)), "int64; images are", id="wide integers"),
    pytest.param(put_npz(x_train=np.zeros((20, 9, 7), np.float32)), "make them agree", id="types disagree"),
    pytest.param(put_npz(y_train=np.zeros((20, 4))), "labels are integers", id="one-hot"),
    pytest.param(put_npz(y_train=np.full(20, -1)), "labels from -1", id="negative label"),
    pytest.param(put_npz(classes=np.array(["a"])), "labels from 0 to 3; with 1 classes", id="too few classes"),
    pytest.param(put_npz(y_train=np.full(20, 10**9)), "has the label 1000000000; classes are", id="a label for an id"),
    pytest.param(put_npz(y_test=np.zeros(3, int)), "8 images and 3 labels", id="counts disagree"),
    pytest.param(put_npz(x_train=np.full((20, 9, 7), np.nan), x_test=np.zeros((8, 9, 7))), "NaN or infinite", id="nan"),
]


def class_of_one(root):
    write_folder(root)
    write_image(root / "emu" / "0.png")


def broken_image(root):
    write_folder(root)
    (root / "dog" / "9.png").write_bytes((root / "dog" / "0.png").read_bytes()[:60])


def text_image(root):
    write_folder(root)
    (root / "dog" / "9.jpg").write_text("hello")


def parts_disagree(root):
    write_folder(root / "train")
    write_folder(root / "test", classes=("cat", "cow"))


FOLDER = [
    pytest.param(lambda root: None, "no such folder", id="missing"),
    pytest.param(lambda root: root.mkdir(), "holds 0 folders", id="empty"),
    pytest.param(lambda root: write_folder(root, classes=("cat",)), "holds 1 folders", id="one class"),
    pytest.param(lambda root: [write_folder(root), (root / "emu").mkdir()], "holds no images", id="empty class"),
    pytest.param(class_of_one, "class 2 has one image", id="class of one"),
    pytest.param(broken_image, "can't be read as an image", id="truncated image"),
    pytest.param(text_image, "can't be read as an image", id="text for an image"),
    pytest.param(parts_disagree, "class 'cow' is in only one of train and test", id="parts disagree"),
]
BROKEN = [
    pytest.param(kind, *case.values, id=f"{kind}: {case.id}")
    for kind, cases in (("idx", IDX), ("npz", NPZ), ("folder", FOLDER))
    for case in cases
]


@pytest.mark.parametrize(("kind", "write", "message"), BROKEN)
def test_broken_corpora(tmp_path, kind, write, message):
    place = tmp_path / "data.npz"
    write(place)
    with pytest.raises(BnfoldError) as caught:
        read(f"{kind}:{place}", SIZE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_idx_that_claims_more_than_a_machine_has(tmp_path):
    put_gz(gzip.compress(b"\0\0\x08\3" + struct.pack(">3I", 2**31, 2**31, 2**31)))(tmp_path)
    with pytest.raises(UnsafeError, match="claims"):
        read(f"idx:{tmp_path}", SIZE)


def test_image_of_too_many_pixels(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BnfoldError, match="can't be read as an image"):
        read(f"folder:{tmp_path}", SIZE)


SPECS = [
    ("digit", "did you mean digits?"),
    ("cifar:x", "choose from digits, idx:DIR"),
    ("digits:x", "write digits"),
    ("idx", "write idx:DIR"),
    ("npz:", "write npz:FILE"),
    ("", "choose from"),
]


@pytest.mark.parametrize(("spec", "message"), SPECS)
def test_specifications(spec, message):
    with pytest.raises(BnfoldError, match=message):
        read(spec, SIZE)


@pytest.mark.parametrize(("module", "spec"), [("sklearn.datasets", "digits"), ("PIL", "folder")])
def test_missing_libraries(tmp_path, monkeypatch, module, spec):
    place = f":{write_folder(tmp_path)}" if spec == "folder" else ""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BnfoldError, match=r"can't be imported \(.*\); install bnfold\[train\]"):
        read(f"{spec}{place}", SIZE)
