"""The pytest plugin: the fixture `bnfold_check`, and golden files that `pytest --bnfold-update` renews.

def test_folded(bnfold_check):
    bnfold_check("model.pt", "model.onnx", providers="cpu,cuda")

def test_today(bnfold_check):
    bnfold_check.golden("model.onnx", reference="model.pt")
"""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bnfold.testing import assert_equivalent, judged

if TYPE_CHECKING:
    from bnfold.checking.result import CheckResult
    from bnfold.golden import Golden

__all__ = ["Checker", "assert_equivalent", "bnfold_check"]

_LOADING = ("arch", "arch_kwargs", "trust")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("bnfold", "checks that models are the same function")
    group.addoption("--bnfold-update", action="store_true", help="record golden files anew, from their references")
    group.addoption("--bnfold-providers", metavar="LIST", help="execution providers where a test names none: cpu,cuda")


@pytest.fixture
def bnfold_check(request: pytest.FixtureRequest) -> "Checker":
    """Check that two models are the same function, or that one still is what a golden file says."""
    return Checker(request)


class Checker:
    """What the fixture gives. Options that a test leaves out come from the command line, then from [tool.bnfold]."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._node, self._path = request.node, request.path
        self._update = bool(request.config.getoption("--bnfold-update"))
        self._providers: str | None = request.config.getoption("--bnfold-providers")

    def __call__(self, reference: Any, candidate: Any, **options: Any) -> "CheckResult":
        """Assert that `candidate` is the same function as `reference`; options as `bnfold.check` takes them."""
        __tracebackhide__ = True
        result = assert_equivalent(reference, candidate, **{**self._defaults(), **options})
        return self._noted(result)

    def golden(
        self, candidate: Any, reference: Any = None, *, name: str = "", inputs: Any = None, **options: Any
    ) -> "CheckResult":
        """Assert that `candidate` gives what the golden file of this test recorded.

        reference: the model that `--bnfold-update` records; where it is given, the file must still be its truth.
        name: tells apart several golden files of one test. inputs: recorded beside the drawn ones. options: as
        `bnfold.check` takes them, except seed and search. A missing or stale file fails the test, with the way out.
        """
        __tracebackhide__ = True
        from bnfold import golden

        path = self.path(name)
        loading = {key: options[key] for key in _LOADING if key in options}
        if self._update:
            self._record(path, reference, inputs, loading)
        recorded = self._load(path)
        why = golden.stale(recorded, reference, **loading)
        if why:
            raise self._failure(path, f"stale: {why}")
        defaults = {key: value for key, value in self._defaults().items() if key not in ("seed", "search", "inputs")}
        return self._noted(judged(golden.check(recorded, candidate, **{**defaults, **options})))

    def path(self, name: str = "") -> Path:
        """Give the golden file's place: golden/MODULE-TEST[-NAME].npz beside the test's own file.

        Where the test has a class or parameters, eight digits follow that no other one has: `x[+]` is not `x[-]`.
        """
        parts = [part for part in (self._path.stem, self._node.nodeid.partition("::")[2], name) if part]
        plain = [re.sub(r"[^\w.=]+", "_", part).strip("_") for part in parts]
        if plain != parts:
            plain.append(hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8])
        return self._path.parent / "golden" / f"{'-'.join(plain)}.npz"

    def _record(self, path: Path, reference: Any, inputs: Any, loading: dict[str, Any]) -> None:
        from bnfold import golden, golden_file

        if reference is None:
            pytest.fail(f"{path}: --bnfold-update needs the reference: golden(candidate, reference=...)", pytrace=False)
        seed = self._defaults().get("seed", 0)
        golden_file.save(golden.record(reference, inputs, seed=seed, **loading), path)

    def _load(self, path: Path) -> "Golden":
        from bnfold import golden_file
        from bnfold.errors import BnfoldError

        if not path.exists():
            raise self._failure(path, "missing")
        try:
            return golden_file.load(path)
        except BnfoldError as error:
            raise self._failure(path, str(error).removeprefix(f"{path}: ")) from None

    def _defaults(self) -> dict[str, Any]:
        from bnfold import settings

        chosen = settings.load(self._path.parent).for_check()
        return {**chosen, "providers": self._providers} if self._providers else chosen

    def _noted(self, result: "CheckResult") -> "CheckResult":
        """Leave the verdict in pytest's own JUnit report."""
        for run in result.runs:
            self._node.user_properties.append(("bnfold", f"{run.label}: {run.verdict}"))
        return result

    @staticmethod
    def _failure(path: Path, why: str) -> BaseException:
        way_out = "look at the change, run pytest --bnfold-update and commit the file"
        return pytest.fail.Exception(f"{path}: golden file: {why}; {way_out}", pytrace=False)
