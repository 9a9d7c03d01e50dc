"""ONNX files as a fuzzer makes them: whatever the bytes, a fold ends in a result or in one line."""

import functools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from onnx import parser

from bnfold.adapters.onnx_file import fold_file
from bnfold.errors import BnfoldError
from tests.adapters.hostile_onnx import CORPUS
from tests.adapters.onnx_cases import batch_norm, model

_CALLS = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N,3,8,8] x) => (float[N,3,8,8] y) <float[1] s = {2}> { a = local.F<k = 0.5>(x, s) y = local.F(a, s) }
    <domain: "local", opset_import: ["": 17, "local": 1]>
    F <k: float = 0.1>(x, s) => (y) { m = Mul(x, s) n = Mul(m, s) y = LeakyRelu<alpha: float = @k>(n) }"""


@functools.cache
def seeds() -> list[bytes]:
    """Small models that reach most of the code, and the hostile ones of up to 10 kB."""
    image = "(float[N,3,8,8] x) => (float[N,4,h,w] y)"
    shared = {"w": (4, 3, 3, 3), **batch_norm(4)}
    texts = [
        "{ c = Conv<pads=[1,1,1,1]>(x, w) n = BN(c) r = Relu(n) p = MaxPool<kernel_shape=[2,2]>(r) y = Clip(p, lo) }",
        "{ c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) m = Mul(t, gamma) a = Add(m, beta) y = Relu(a) }",
        "{ c = Conv(x, w) s, u = Split<axis=1, num_outputs=2>(c) k = Concat<axis=1>(u, s) y = BN(k) }",
    ]
    lo = model("(float x) => (float y) { y = Relu(x) }", lo=()).graph.initializer[0]
    found = []
    for text in texts:
        proto = model(image + text, 18, **shared)
        proto.graph.initializer.append(lo)
        found.append(proto.SerializeToString())
    found.append(parser.parse_model(_CALLS).SerializeToString())
    return found + [data for make in CORPUS.values() if 0 < len(data := make()) < 10_000]


def one(data: bytes) -> None:
    """Fold the bytes as a file. Anything but BnfoldError is a finding."""
    with tempfile.TemporaryDirectory(prefix="bnfold-fuzz-") as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "folded.onnx"
        source.write_bytes(data)
        try:
            fold_file(source, target)
        except BnfoldError as error:
            if len(str(error).splitlines()) != 1:
                raise AssertionError(f"more than one line: {error!r}") from error
            if target.exists():
                raise AssertionError("refused, and written all the same") from error


def mutations(count: int, seed: int) -> list[bytes]:
    """Change bytes, cut, repeat and join parts of the seeds, at random."""
    draw, known = random.Random(seed), seeds()
    return [mutated(draw, draw.choice(known)) for _ in range(count)]


def mutated(draw: random.Random, content: bytes) -> bytes:
    """Change a file."""
    data, known = bytearray(content), seeds()
    if not data:
        return draw.choice(known)
    steps: list[Callable[[], None]] = [
        lambda: data.__setitem__(draw.randrange(len(data)), draw.randrange(256)),
        lambda: data.__setitem__(draw.randrange(len(data)), draw.choice((0, 1, 0x7F, 0x80, 0xFF))),
        lambda: data.__delitem__(slice(start := draw.randrange(len(data)), start + draw.randrange(1, 40))),
        lambda: data.__setitem__(slice(start := draw.randrange(len(data)), start), data[start : start + 40]),
        lambda: data.__setitem__(slice(start := draw.randrange(len(data)), start + 8), draw.choice(known)[:8]),
    ]
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if data:
            draw.choice(steps)()
    return bytes(data)
