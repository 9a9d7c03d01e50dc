"""A check as annotations of a GitHub workflow: `::error title=...::message`."""

import os

from bnfold.checking.result import CheckResult, Verdict
from bnfold.report.check_cases import Case, Rule, cases, warnings

_MOST = 10  # GitHub shows ten errors and ten warnings a step


def wanted() -> bool:
    """Whether this process runs in a GitHub workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def render(result: CheckResult) -> str:
    """Give a line for each case that is not verified and each warning, errors first; nothing where all is well."""
    found = [case for case in cases(result) if case.verdict is not Verdict.VERIFIED]
    errors = [case for case in found if case.verdict is not Verdict.SKIPPED]
    notices = [case for case in found if case.verdict is Verdict.SKIPPED]
    lines = [_line("error", case) for case in errors[:_MOST]]
    if len(errors) > _MOST:
        lines[-1:] = [f"::error title=bnfold::and {len(errors) - _MOST + 1} more, see the report"]
    lines += [_line("warning", case) for case in warnings(result)[:_MOST]]
    lines += [_line("notice", case) for case in notices[:_MOST]]
    return "".join(f"{line}\n" for line in lines)


def _line(command: str, case: Case) -> str:
    title = f"bnfold {case.rule.slug}" + ("" if case.group == "check" else f": {case.group}: {case.name}")
    message = case.message or str(case.verdict)
    if case.rule is Rule.OUTPUT and case.layer:
        message += "\n" + case.detail.partition("\n")[0]
    return command_line(command, title, message)


def command_line(command: str, title: str, message: str, **properties: str) -> str:
    """Give a workflow command: `::error title=...,file=...::message`."""
    listed = ",".join(f"{name}={_property(value)}" for name, value in {"title": title, **properties}.items())
    return f"::{command} {listed}::{_data(message)}"


def _data(text: str) -> str:
    """Escape as GitHub's own toolkit does, so that no name can start a command of its own."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
