"""The click group that imports a command's module when it is called, and prints errors as one line."""

from __future__ import annotations

import importlib

import click

from omavol import __version__
from omavol.cli import COMMANDS

__all__ = ["LazyGroup", "run"]


class LazyGroup(click.Group):
    """Knows its commands by name and help; the module behind one is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"omavol.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that `--help` imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="omavol")
def root() -> None:
    """The volume engine: serve, copy and inspect disks over NBD, and keep the volumes of a migration appliance."""


def run() -> None:
    root(prog_name="omavol")
