"""`bnfold doctor`: what this installation can check on, and why not on more."""

from dataclasses import asdict

import click

from bnfold.commands.options import json_option
from bnfold.report.document import document


@click.command()
@json_option
def command(as_json: bool) -> int:
    """Diagnose the installed runtimes and providers. Exit status: 0 where checks can run, 3 where a problem stands."""
    from bnfold.checking.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        click.echo(document("doctor", findings=[asdict(finding) for finding in diagnosis.findings]))
        return diagnosis.exit_status
    for finding in diagnosis.findings:
        click.echo(f"{finding.level:8} {finding.what}" + (f"\n{'':8} -> {finding.advice}" if finding.advice else ""))
    return diagnosis.exit_status
