"""The click group that imports a command's module when it is called, and prints errors as one line."""

from __future__ import annotations

import importlib
from typing import Any

import click

from omavol import __version__
from omavol.cli import COMMANDS
from omavol.cli.manual import epilog

__all__ = ["LazyGroup", "run"]


class LazyGroup(click.Group):
    """Knows its commands by name and help; the module behind one is imported when it is called.

    `table` maps a command's name to its one-line help; the module is `package` and the name, and defines `command`.
    """

    def __init__(self, *args: Any, table: dict[str, str], package: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.table = table
        self.package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        command = importlib.import_module(f"{self.package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        if command.epilog is None and self.package == "omavol.cli":
            command.epilog = epilog(cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that `--help` imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.table.items()))


@click.group(
    cls=LazyGroup, table=COMMANDS, package="omavol.cli", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="omavol")
def root() -> None:
    """The volume engine: serve, copy and inspect disks over NBD, and keep the volumes of a migration appliance."""


def run() -> None:
    root(prog_name="omavol")
