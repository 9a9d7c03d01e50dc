"""`bnfold lint`: fail on models that still hold foldable BatchNorm."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.commands.options import FILE, architecture, inputs, json_option, trust

if TYPE_CHECKING:
    from bnfold.linting import Finding

_SHOWN = 8  # names in a line; --json has them all


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=FILE)
@architecture
@inputs
@trust
@json_option
def command(paths: tuple[Path, ...], as_json: bool, **opening: Any) -> int:
    """Fail where a model file has BatchNorm that bnfold would fold, or was folded from a source that has changed since.

    PATH: model files, and folders of them; [tool.bnfold.lint] paths of pyproject.toml where none is given.

    Exit status: 0 nothing to fold, 1 something is foldable or stale, 2 usage or internal error, 3 a file could not be
    examined, 4 a file is not safe to open.
    """
    from bnfold import linting, settings

    chosen = settings.load()
    places = list(paths or chosen.lint.paths)
    if not places:
        raise click.UsageError("give a PATH, or set paths in [tool.bnfold.lint] of pyproject.toml.")
    if opening["arch_arguments"]:
        from bnfold.adapters.torch_factory import parse_arguments

        opening["arch_arguments"] = parse_arguments(opening["arch_arguments"])
    files = linting.models(places, chosen)
    findings = list(linting.lint(files, chosen, **opening))
    click.echo(_json(files, findings) if as_json else _text(files, findings))
    return linting.exit_status(findings)


def _text(files: Sequence[Path], findings: Sequence["Finding"]) -> str:
    from bnfold.printable import visible
    from bnfold.report.text import plural

    lines = []
    for finding in findings:
        lines.append(f"{visible(str(finding.path))}: {finding.rule}: {visible(finding.message)}")
        names = [visible(name) for name in finding.affines]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines += [f"    {', '.join(names[:_SHOWN])}{more}"] if names else []
    if os.environ.get("GITHUB_ACTIONS") == "true":
        lines += [_annotation(finding) for finding in findings]
    wrong = len({finding.path for finding in findings})
    lines.append(f"{plural(len(files), 'model')}: {f'{wrong} with findings' if wrong else 'nothing to fold'}")
    return "\n".join(lines)


def _annotation(finding: "Finding") -> str:
    from bnfold.printable import visible
    from bnfold.report.check_github import command_line

    place = visible(str(finding.path))
    return command_line("error", f"bnfold {finding.rule}", f"{place}: {visible(finding.message)}", file=place)


def _json(files: Sequence[Path], findings: Sequence["Finding"]) -> str:
    from bnfold.report.document import document

    rows = [{"path": str(x.path), "rule": x.rule, "message": x.message, "affines": list(x.affines)} for x in findings]
    return document("lint", files=[str(file) for file in files], findings=rows)
