"""Ctrl-C, turned into a question that the loop asks between batches."""

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Within its block the first SIGINT only sets `asked`, so that a batch is never cut in half; the second raises.

    Outside of the main thread, where Python allows no handlers, it changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
