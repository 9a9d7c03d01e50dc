"""Numbers and names as reports print them."""

import math
import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # controls, bidirectional overrides, lone surrogates, ...


def visible(text: str) -> str:
    r"""Give one printable line: line breaks become blanks, what can't be seen its escape (`\x1b`, `\u202e`).

    Names come from files that somebody else made; the result is valid in XML, UTF-8 and a terminal.
    """
    line = " ".join(text.splitlines())
    return "".join(_escaped(char) if unicodedata.category(char) in _HIDDEN else char for char in line)


def figure(value: float | None, digits: int = 3) -> str:
    """Print a number with few digits; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """Print a share as a percentage; 100 % only where nothing is missing."""
    if value is None or math.isnan(value):
        return "-"
    return f"{math.floor(value * 1000) / 10:g} %"


def plural(count: int, noun: str) -> str:
    """`1 output`, `2 outputs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _escaped(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
