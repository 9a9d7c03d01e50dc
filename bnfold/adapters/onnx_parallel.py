"""Writing the pieces of a file in several threads: NumPy and the system let go of Python's lock while they work."""

import os
import threading
from collections.abc import Iterator, Sequence

from bnfold.adapters.onnx_content import row_by_row
from bnfold.adapters.onnx_splice import FileSink, Piece, write

_RUN = 1 << 22  # bytes that a thread writes before it takes more
_MOST = 4  # threads; each has blocks of its own, and the disk is slower than a few


def write_file(pieces: Sequence[Piece], descriptor: int) -> None:
    """Write pieces in order into an empty file. The first failure of any thread is raised, when all have ended."""
    runs = list(_runs(pieces))
    left = iter(runs)  # one that threads share: each run is taken by one of them
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with row_by_row():
                for start, run in left:
                    if failures:
                        return
                    sink = FileSink(descriptor, start)
                    write(run, sink)
                    sink.flush()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    helpers = [threading.Thread(target=work) for _ in range(min(_MOST, _cores(), len(runs)) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[int, list[Piece]]]:
    """Give pieces that follow each other and where in the file they begin; no piece is divided."""
    start, length, run = 0, 0, list[Piece]()
    for piece in pieces:
        run.append(piece)
        length += piece.length
        if length >= _RUN:
            yield start, run
            start, length, run = start + length, 0, []
    if run:
        yield start, run


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
