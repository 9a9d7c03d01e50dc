"""Which execution providers were asked for, with which options; how their names are read."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bnfold.errors import BnfoldError

SESSION_OPTIONS = ("level", "threads")  # of the session, not of the provider
LEVELS = ("disable", "basic", "extended", "layout", "all")
_SUFFIX = "ExecutionProvider"
_NUMBERS = ("threads", "device_id")
_ON, _OFF = ("1", "true", "True"), ("0", "false", "False")  # as ONNX Runtime reads them
_NICKNAMES = {"trt": "tensorrt", "gpu": "cuda"}


@dataclass(frozen=True)
class Target:
    """One provider with its options, as asked for. `mode` is the row of the tolerance table, empty for the model's."""

    provider: str
    options: tuple[tuple[str, str], ...] = ()
    mode: str = ""

    @property
    def name(self) -> str:
        """The provider's short name, however it was spelt: cpu for CPUExecutionProvider, cuda for gpu."""
        short = self.provider.lower().removesuffix(_SUFFIX.lower())
        return _NICKNAMES.get(short, short)

    def option(self, name: str, default: str = "") -> str:
        """Give one option's value."""
        return dict(self.options).get(name, default)

    def full_name(self, known: Iterable[str]) -> str | None:
        """Find ONNX Runtime's name for the provider among those it knows; None for a name that it does not know."""
        return next((name for name in known if name.lower().removesuffix(_SUFFIX.lower()) == self.name), None)

    def near(self, known: Iterable[str]) -> list[str]:
        """Give known short names that look like this one."""
        return difflib.get_close_matches(self.provider.lower(), [short_name(name) for name in known])


def short_name(provider: str) -> str:
    """CPUExecutionProvider -> cpu."""
    return provider.removesuffix(_SUFFIX).lower()


def parse_targets(providers: str | Sequence[str]) -> tuple[Target, ...]:
    """Read `cpu,cuda:use_tf32=0,device_id=1`, or a sequence of such. `BnfoldError` where it can't be read."""
    text = providers if isinstance(providers, str) else ",".join(providers)
    targets: list[Target] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, colon, option = part.partition(":")
        if not colon and "=" in part:
            if not targets:
                raise BnfoldError(f"--providers {text!r}: option {part!r} stands before any provider")
            targets[-1] = _with(targets[-1], part)
        else:
            targets.append(_with(Target(name), option) if option else Target(name))
    if not targets:
        raise BnfoldError("no provider given; for instance --providers cpu,cuda")
    return tuple(dict.fromkeys(judged for target in targets for judged in _judged_twice(target)))


def _with(target: Target, option: str) -> Target:
    key, equals, value = option.partition("=")
    if not equals or not key:
        raise BnfoldError(f"--providers: {option!r} is no option of {target.provider}; wanted key=value")
    if key == "level" and value not in LEVELS:
        raise BnfoldError(f"--providers: level={value}; wanted one of {', '.join(LEVELS)}")
    if key in _NUMBERS and not re.fullmatch("[0-9]{1,4}", value):
        raise BnfoldError(f"--providers: {key}={value}; wanted a number")
    if key == "use_tf32" and value not in (*_ON, *_OFF):
        raise BnfoldError(f"--providers: use_tf32={value}; wanted 0 or 1")
    if target.name == "cpu" and key not in SESSION_OPTIONS:  # ONNX Runtime takes any, and reads none of them
        raise BnfoldError(f"--providers: cpu has no option {key!r}; there are {' and '.join(SESSION_OPTIONS)}")
    return replace(target, options=(*target.options, (key, value)))


def _judged_twice(target: Target) -> Iterable[Target]:
    """CUDA with TF32 off proves the fold, as it ships (TF32 on) proves the deployment; each has its own budget."""
    if target.name != "cuda":
        yield target
    elif target.option("use_tf32"):
        yield replace(target, mode="" if target.option("use_tf32") in _OFF else "tf32")
    else:
        yield replace(target, options=(*target.options, ("use_tf32", "0")))
        yield replace(target, mode="tf32")
