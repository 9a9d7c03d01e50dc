"""The user's settings: the table [tool.bnfold] of the nearest pyproject.toml.

[tool.bnfold]
level = "max"
providers = ["cpu", "cuda:use_tf32=0"]
report = "junit=bnfold.xml,html=bnfold.html"

[tool.bnfold.budget]
rms = 4.0

[tool.bnfold.lint]
paths = ["models"]
allow = ["models/legacy/*.onnx"]
"""

import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn

from bnfold.errors import BnfoldError
from bnfold.record import record

_FILE = "pyproject.toml"


@record
class Lint:
    """paths: what `bnfold lint` looks at where the command line names nothing. allow: patterns of files to skip."""

    paths: tuple[Path, ...] = ()
    allow: tuple[str, ...] = ()


@record
class Settings:
    """What a project says about its folds and checks; the command line overrides it. Paths are absolute.

    file: where it was read, None where no pyproject.toml has the table.
    """

    file: Path | None = None
    level: str = "default"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    providers: tuple[str, ...] = ("cpu",)
    inputs: Path | None = None
    seed: int = 0
    search: int = 0
    allow_missing: bool = False
    allow_fallback: bool = False
    report: str = ""
    budget: Mapping[str, float] = field(default_factory=dict)
    lint: Lint = Lint()

    def for_check(self) -> dict[str, Any]:
        """Give the arguments of `bnfold.check` that were set."""
        chosen = {
            "inputs": self.inputs, "providers": self.providers, "seed": self.seed, "search": self.search,
            "allow_missing": self.allow_missing, "allow_fallback": self.allow_fallback,
            "budget": dict(self.budget) or None,
        }  # fmt: skip
        defaults = Settings()
        return {name: value for name, value in chosen.items() if value and value != getattr(defaults, name)}


def load(start: str | os.PathLike[str] = ".") -> Settings:
    """Read the settings for what lies at `start`: from its folder upwards, the first pyproject.toml with the table.

    Raises BnfoldError where a file on the way is no TOML, or a key or value is not known.
    """
    place = Path(start).resolve()
    for folder in (place, *place.parents):
        table = _table(folder / _FILE)
        if table is not None:
            return _settings(folder / _FILE, table)
    return Settings()


def _table(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
        import tomllib

        content = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise BnfoldError(f"{file}: can't be read as TOML: {error}") from error
    tool = content.get("tool")
    return tool.get("bnfold") if isinstance(tool, dict) else None


def _settings(file: Path, table: Any) -> Settings:
    reader = _Reader(file, "tool.bnfold", table)
    reader.refuse_unknown(_KEYS)
    lint = _Reader(file, "tool.bnfold.lint", table.get("lint", {}))
    lint.refuse_unknown(("paths", "allow"))
    inputs = reader.text("inputs")
    return Settings(
        file=file,
        level=reader.one_of("level", ("default", "max")),
        only=reader.texts("only"),
        skip=reader.texts("skip"),
        providers=reader.texts("providers") or ("cpu",),
        inputs=file.parent / inputs if inputs else None,
        seed=reader.number("seed"),
        search=reader.number("search"),
        allow_missing=reader.flag("allow-missing"),
        allow_fallback=reader.flag("allow-fallback"),
        report=",".join(reader.texts("report")),
        budget=_budget(file, table.get("budget", {})),
        lint=Lint(tuple(file.parent / path for path in lint.texts("paths")), lint.texts("allow")),
    )


_KEYS = (
    "level", "only", "skip", "providers", "inputs", "seed", "search", "allow-missing", "allow-fallback", "report",
    "budget", "lint",
)  # fmt: skip
_FIGURES = ("rms", "channel", "peak", "floor", "ceiling")


def _budget(file: Path, table: Any) -> dict[str, float]:
    reader = _Reader(file, "tool.bnfold.budget", table)
    reader.refuse_unknown(_FIGURES)
    return {name: reader.positive(name) for name in reader.table}


@record
class _Reader:
    """Takes values of the wanted type out of one table."""

    file: Path
    name: str
    table: Any

    def refuse_unknown(self, known: tuple[str, ...]) -> None:
        if not isinstance(self.table, dict):
            raise BnfoldError(f"{self.file}: [{self.name}] is {self.table!r}; wanted a table")
        for key in self.table:
            if key not in known:
                import difflib

                near = difflib.get_close_matches(key, known, n=1)
                advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise BnfoldError(f"{self.file}: [{self.name}] has no key {key!r}; {advice}")

    def text(self, key: str) -> str:
        value = self.table.get(key, "")
        if not isinstance(value, str):
            self._refuse(key, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """One string, or a list of them."""
        value = self.table.get(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            self._refuse(key, "a string or a list of strings")
        return tuple(values)

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.table.get(key, choices[0])
        if not isinstance(value, str) or value not in choices:
            self._refuse(key, " or ".join(choices))
        return value

    def flag(self, key: str) -> bool:
        value = self.table.get(key, False)
        if not isinstance(value, bool):
            self._refuse(key, "true or false")
        return value

    def number(self, key: str) -> int:
        value = self.table.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self._refuse(key, "a whole number, 0 or more")
        return value

    def positive(self, key: str) -> float:
        value = self.table[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
            self._refuse(key, "a positive number")
        return float(value)

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        raise BnfoldError(f"{self.file}: [{self.name}] {key} = {self.table[key]!r}; wanted {wanted}")
