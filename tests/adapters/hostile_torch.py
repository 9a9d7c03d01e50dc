"""Makes malformed and hostile PyTorch files: `python -m tests.adapters.hostile_torch DIR` writes the corpus."""

import io
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

REFUSED, UNSAFE = 2, 4


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def saved(content: object, **options: object) -> bytes:
    """Give the bytes of torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def program() -> bytes:
    """Give the bytes of a small .pt2."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 3).eval(), (torch.zeros(2, 2),)), buffer)
    return buffer.getvalue()


def rewritten(archive: bytes, change: Callable[[str, bytes], bytes | None], **options: object) -> bytes:
    """Write an archive anew, with each entry changed; None leaves it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(buffer, "w", **options) as target:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                target.writestr(name, content)
    return buffer.getvalue()


def with_extra(archive: bytes, name: str, content: bytes) -> bytes:
    """Append an entry."""
    buffer = io.BytesIO()
    buffer.write(archive)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as target:
        warnings.simplefilter("ignore")  # a name that is there already
        target.writestr(name, content)
    return buffer.getvalue()


def changed_json(archive: bytes, ending: str, change: Callable[[dict], None]) -> bytes:
    """Change the JSON entry whose name has this ending."""

    def edit(name: str, content: bytes) -> bytes:
        if not name.endswith(ending):
            return content
        tree = json.loads(content)
        change(tree)
        return json.dumps(tree).encode()

    return rewritten(archive, edit)


def corpus(mark: str) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Give (name, bytes, exit statuses that are right). `mark`: a path that exists only if code ran."""
    state = saved({"weight": torch.randn(3, 2), "bias": torch.randn(3)})
    yield "empty.pt", b"", (REFUSED,)
    yield "text.pt", b"this is not a model\n" * 9, (REFUSED,)
    yield "png.pt", b"\x89PNG\r\n\x1a\n" + bytes(64), (REFUSED,)
    yield "magic.pt", b"PK\x03\x04" + bytes(200), (REFUSED,)
    yield "zip.pt", rewritten(state, lambda name, content: None), (REFUSED,)
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        yield f"truncated{share}.pt", state[: int(len(state) * share)], (REFUSED,)
    yield from flipped(state)
    yield "zip-in-zip.pt", rewritten(state, lambda n, c: state if n.endswith("data.pkl") else c), (REFUSED, UNSAFE)
    yield "no-data.pt", rewritten(state, lambda n, c: None if "/data/0" in n else c), (REFUSED, UNSAFE)
    yield "short-data.pt", rewritten(state, lambda n, c: c[:4] if "/data/0" in n else c), (REFUSED, UNSAFE)
    yield "bomb.pt", bomb(state), (UNSAFE,)
    yield "twice.pt", with_extra(state, next(iter(names(state))), b"other"), (UNSAFE,)
    yield "expanded.pt", saved({"weight": torch.zeros(1).expand(10**12)}), (UNSAFE,)
    yield "code.pt", saved({"weight": torch.zeros(2), "x": Payload(mark)}), (UNSAFE,)
    yield "code-legacy.pt", saved({"x": Payload(mark)}, _use_new_zipfile_serialization=False), (UNSAFE,)
    yield "plain.pkl", pickle.dumps(Payload(mark)), (UNSAFE, REFUSED)
    yield "constructs.pt", constructs(), (UNSAFE,)
    yield "list.pt", saved([1, 2, 3]), (REFUSED,)
    yield "number.pt", saved(7), (REFUSED,)
    yield "nested.pt", saved(nested(150)), (REFUSED, UNSAFE)
    yield "checkpoint.pt", saved({"format": "bnfold.checkpoint", "version": 1}), (REFUSED,)
    yield "edits.pt", saved({"format": "bnfold.folded", "edits": "{", "state_dict": {"a": torch.zeros(1)}}), (REFUSED,)
    yield from programs(mark)
    yield from safetensors()


def flipped(archive: bytes) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Flip one byte in the middle of every entry that has a CRC."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        for info in source.infolist():
            if info.CRC and info.file_size:
                header = struct.unpack("<HH", archive[info.header_offset + 26 : info.header_offset + 30])
                place = info.header_offset + 30 + sum(header) + info.file_size // 2
                content = bytearray(archive)
                content[place] ^= 0x10
                yield f"flipped-{info.filename.replace('/', '-')}.pt", bytes(content), (REFUSED,)


def names(archive: bytes) -> list[str]:
    """List an archive's entries."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return source.namelist()


def bomb(archive: bytes) -> bytes:
    """Deflate 100 MiB of zeros into 100 kB."""
    zeros = bytes(100 << 20)
    return rewritten(archive, lambda n, c: zeros if "/data/0" in n else c, compression=zipfile.ZIP_DEFLATED)


def constructs() -> bytes:
    """Give a pickle that calls nn.Linear(10**6, 10**6), which is 4 TB."""
    state = saved(nn.Linear(2, 3))
    call = b"\x80\x02ctorch.nn.modules.linear\nLinear\nJ" + struct.pack("<i", 10**6) + b"J"
    call += struct.pack("<i", 10**6) + b"\x86R."
    return rewritten(state, lambda name, content: call if name.endswith("data.pkl") else content)


def nested(depth: int) -> dict:
    """Give dicts within each other."""
    result: dict = {}
    for _ in range(depth):
        result = {"model": result}
    return result


def programs(mark: str) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """.pt2 files that ask torch.export.load for more than a graph."""
    good = program()
    yield "truncated.pt2", good[: len(good) // 2], (REFUSED,)
    pickled = saved(Payload(mark))

    def use_pickle(tree: dict) -> None:
        next(iter(tree["config"].values()))["use_pickle"] = True

    asked = changed_json(good, "model_weights_config.json", use_pickle)
    yield "pickled.pt2", rewritten(asked, lambda n, c: pickled if n.endswith("weight_0") else c), (UNSAFE,)

    def call(tree: dict) -> None:
        tree["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"

    yield "target.pt2", changed_json(good, "models/model.json", call), (UNSAFE,)

    def expression(tree: dict) -> None:
        value = tree["graph_module"]["graph"]["tensor_values"]["input"]
        value["sizes"][0] = {"as_expr": {"expr_str": f"__import__('os').system('touch {mark}')", "hint": None}}

    yield "expression.pt2", changed_json(good, "models/model.json", expression), (UNSAFE,)

    def deep(tree: dict) -> None:
        tree["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0] = {"as_int": 10**15}

    yield "sizes.pt2", changed_json(good, "models/model.json", deep), (REFUSED, 0)
    yield "garbage.pt2", rewritten(good, lambda n, c: b"{" if n.endswith("model.json") else c), (REFUSED,)
    yield "weights.pt2", rewritten(good, lambda n, c: c[:3] if n.endswith("weight_0") else c), (REFUSED,)


def safetensors() -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Safetensors files whose header lies."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    good = struct.pack("<Q", len(header)) + header + bytes(16)
    yield "short.safetensors", good[:-4], (REFUSED,)
    yield "long-header.safetensors", struct.pack("<Q", 1 << 60) + good[8:], (REFUSED,)
    huge = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    yield "huge.safetensors", struct.pack("<Q", len(huge)) + huge, (REFUSED,)
    broken = b"{" + bytes(30)
    yield "broken.safetensors", struct.pack("<Q", len(broken)) + broken, (REFUSED,)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file, content, _ in corpus(str(folder / "MARK")):
        (folder / file).write_bytes(content)
