"""Text that other people's files bring, made fit to print."""

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # controls, bidirectional overrides, lone surrogates, ...


def visible(text: str) -> str:
    r"""Give one printable line: line breaks become blanks, what can't be seen its escape (`\x1b`, `\u202e`).

    Names come from files that somebody else made; the result is valid in XML, UTF-8 and a terminal.
    """
    if text.isprintable():
        return text
    import unicodedata

    line = " ".join(text.splitlines())
    return "".join(_escaped(char) if unicodedata.category(char) in _HIDDEN else char for char in line)


def _escaped(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
