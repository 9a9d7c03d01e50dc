""".pt2 files without running what they hold: a cleaned copy of the archive is given to torch.export.load.

torch.export.load unpickles sample inputs and custom objects, evaluates symbolic expressions and guards as Python code,
resolves operators by name anywhere below `torch`, and loads compiled libraries. The copy has none of these.
"""

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from bnfold.adapters.torch_capture import quietly
from bnfold.adapters.torch_pickle import refuse_unexplained_memory
from bnfold.errors import BnfoldError, UnsafeError
from bnfold.formats import content_of, inspect_archive

_COPIED = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/.*|models/[^/]+\.json|data/(weights|constants)/[^/]+)"
)
_SAMPLES = re.compile(r"data/sample_inputs/[^/]+\.pt")
_TARGET = re.compile(
    r"torch\.ops\.(aten|prim|prims|torchvision|higher_order)\.[A-Za-z_]\w*(\.[A-Za-z_]\w*)?"
    r"|torch\.sym_(int|float|max|min|not|ite|sum|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_|pow)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
# What sympy.srepr writes for shapes. Pow is left out: it takes a few bytes to ask for a number of a billion digits.
_EXPRESSION_WORD = re.compile(
    r"[suzi]\d+|u\d+|Symbol|Integer|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Identity"
    r"|TruncToInt|IntTrueDiv|FloatTrueDiv|ToFloat|floor|ceiling|Eq|Ne|And|Or|Not"
    r"|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|true|false|True|False"
    r"|positive|integer|nonnegative|real|finite|zero|\d{1,20}"
)
_EXPRESSION = re.compile(r"[\w\s+\-*/(),.<>=&|~!%'\"]{1,20000}")


def read_program(
    path: Path, *, trust: bool = False, max_bytes: int | None = None
) -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    """Give the program and its sample inputs (empty where it has none, or keeps more than plain tensors).

    Raises UnsafeError where the file asks for more than operators of torch and raw tensors, unless `trust` is given.
    """
    inspect_archive(path, max_bytes)
    if trust:
        program = _loaded(path, path)
        return program, _tensors_of(program.example_inputs)
    with tempfile.TemporaryDirectory(prefix="bnfold") as folder:
        copy = Path(folder) / "clean.pt2"
        try:
            samples = _clean(path, copy)
        except OSError as error:
            raise BnfoldError(f"{path}: no copy of it fits into {folder} ({error.strerror}); set TMPDIR") from error
        program = _loaded(copy, path)
    refuse_unexplained_memory(path, [dict(program.state_dict), dict(program.constants)])
    return program, samples


def _loaded(file: Path, path: Path) -> ExportedProgram:
    try:
        with quietly():
            return torch.export.load(file)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise BnfoldError(f"{path}: can't be loaded as an ExportedProgram ({type(error).__name__}: {line})") from error


def _clean(path: Path, copy: Path) -> tuple[Tensor, ...]:
    samples: tuple[Tensor, ...] = ()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for info in source.infolist():
            root, _, name = info.filename.partition("/")
            if _SAMPLES.fullmatch(name):
                samples = _safe_samples(content_of(source, info.filename))
                target.writestr(f"{root}/{name}", b"")  # the loader wants the entry; empty, it is not unpickled
            elif _COPIED.fullmatch(name):
                content = content_of(source, info.filename)
                if name.endswith(".json"):
                    content = _clean_json(path, name, content)
                target.writestr(f"{root}/{name}", content)
    return samples


def _safe_samples(content: bytes) -> tuple[Tensor, ...]:
    try:
        return _tensors_of(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    except Exception:  # noqa: BLE001 - samples are a convenience: without them the user gives inputs
        return ()


def _tensors_of(samples: object) -> tuple[Tensor, ...]:
    """Give the positional ones of (args, kwargs), where all are tensors and there are no keywords."""
    if not (isinstance(samples, tuple) and len(samples) == 2 and isinstance(samples[0], tuple) and not samples[1]):
        return ()
    return samples[0] if all(isinstance(item, Tensor) for item in samples[0]) else ()


def _clean_json(path: Path, name: str, content: bytes) -> bytes:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BnfoldError(f"{path}: {name} is damaged ({error})") from error
    for key, value in _items(tree):
        why = _unsafe(key, value)
        if why:
            raise UnsafeError(f"{path}: {name} {why}; export the model again, or, if you trust its maker, --trust")
    if name.startswith("models/") and isinstance(tree, dict):
        tree["guards_code"] = []
    return json.dumps(tree).encode()


def _items(tree: object) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested dicts; treespecs, which are JSON in a text, are looked into as well."""
    pending = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _unsafe(key: str, value: object) -> str:
    """Say what is unsafe about an entry; empty where nothing is."""
    if key == "target" and not _TARGET.fullmatch(str(value)):
        return f"calls {str(value)[:80]!r}"
    if key == "use_pickle" and value is not False:
        return "keeps a tensor or object as a pickle"
    if key in ("expr_str", "in_spec", "out_spec") and not isinstance(value, str):
        return f"has a malformed {key}"
    if key == "expr_str" and not _is_expression(str(value)):
        return f"has the expression {str(value)[:80]!r}"
    if key in ("in_spec", "out_spec") and "defaultdict" in str(value):
        return "holds a defaultdict, whose factory is code"
    return ""


def _is_expression(text: str) -> bool:
    words = re.findall(r"[A-Za-z_0-9.]+", text)
    return bool(_EXPRESSION.fullmatch(text)) and "**" not in text and all(map(_EXPRESSION_WORD.fullmatch, words))
