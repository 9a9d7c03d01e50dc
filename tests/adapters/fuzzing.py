"""Mutated files, one after the other, until stopped; by coverage where atheris is installed."""

import importlib
import importlib.util
import random
import sys
import time
from pathlib import Path
from typing import Protocol


class Target(Protocol):
    """A module: `seeds` gives files, `mutated` changes one, and `one` raises for a finding."""

    @staticmethod
    def seeds() -> list[bytes]: ...

    @staticmethod
    def mutated(draw: random.Random, data: bytes) -> bytes: ...

    @staticmethod
    def mutations(count: int, seed: int) -> list[bytes]: ...

    @staticmethod
    def one(data: bytes) -> None: ...


def fuzz(module: str, found: Path, batch: int) -> None:
    """Fuzz tests.adapters.MODULE for as many seconds as the command line says. found: where a finding is kept."""
    name = f"tests.adapters.{module}"
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    if importlib.util.find_spec("atheris"):
        _by_coverage(name, found, seconds)
    else:
        _at_random(importlib.import_module(name), found, batch, seconds)


def _by_coverage(name: str, found: Path, seconds: float) -> None:
    """Let libFuzzer keep what reaches new branches of bnfold; it changes bytes, the target whole structures."""
    import atheris

    with atheris.instrument_imports(include=["bnfold"]):
        target = importlib.import_module(name)
    corpus = Path(found.stem + "-corpus")
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        draw = random.Random(seed)
        changed = target.mutated(draw, data) if draw.random() < 0.5 else atheris.Mutate(data, max_size)
        return bytes(changed[:max_size])

    limit = [] if seconds == float("inf") else [f"-max_total_time={int(seconds)}"]
    options = [
        f"-artifact_prefix={found.stem}-",
        "-rss_limit_mb=4096",
        "-timeout=20",
        "-len_control=0",
        "-max_len=65536",
        *limit,
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.one, custom_mutator=mutate)
    atheris.Fuzz()


def _at_random(target: Target, found: Path, batch: int, seconds: float) -> None:
    """Mutate without a guide; the seed of the first batch is the clock's, and is printed."""
    seed, began, tried = time.time_ns(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for data in target.mutations(batch, seed):
            try:
                target.one(data)
            except Exception:
                found.write_bytes(data)
                print(f"seed {seed}: kept as {found}")  # noqa: T201
                raise
        tried, seed = tried + batch, seed + 1
        print(f"{tried} files, no finding", flush=True)  # noqa: T201
