"""`omavol doctor`: what this machine lacks, what for, and how to get it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from omavol.cli.tables import table

__all__ = ["command"]


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what of the kernel, its limits and its programs is here, and what is missing for which command."""
    from omavol.block.doctor import State, examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
    else:
        rows = [(each.state.value, each.name, each.found, each.needed_for) for each in findings]
        click.echo(table(("STATE", "WHAT", "FOUND", "NEEDED FOR"), rows), nl=False)
        for each in findings:
            if each.advice:
                click.echo(f"\n{each.name}: {each.found}\n  {each.advice}")
    if any(each.state is State.MISSING for each in findings):
        click.get_current_context().exit(2)
