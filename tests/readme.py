"""The commands and examples of README.md, run for real. `python -m tests.readme` writes what they print into it."""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bnfold import demo

README = Path(__file__).parent.parent / "README.md"
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Give the command lines of the console blocks, in order."""
    lines = [line for block in _CONSOLE.findall(text) for line in block.split("\n")]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def updated(text: str) -> str:
    """Give the text with the output of every command and example, run in an empty folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("demo").mkdir()
        text = _CONSOLE.sub(lambda match: "```console\n" + "\n".join(_session(match[1])) + "\n```", text)
        return _PYTHON.sub(lambda match: f"```python\n{match[1]}```\n\n```text\n{_printed(match[1])}```", text)


def _session(block: str) -> Iterator[str]:
    steps = [line.removeprefix("$ ") for line in block.split("\n") if line.startswith("$ ")]
    for number, step in enumerate(steps):
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            status = demo.run(step)
        assert status == 0, f"{step}: exit status {status}"
        yield from ([""] if number else [])
        yield f"$ {step}"
        yield stream.getvalue().strip("\n")


def _printed(code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        exec(compile(code, "README.md", "exec"), {})
    return stream.getvalue()


def without_numbers(text: str) -> str:
    """Leave out what differs between machines: digits, times, and the blanks that line them up."""
    text = re.sub(r"\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "#", text)
    return re.sub(r"[ \t]+", " ", text)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
