"""The group of omactl's commands."""

from __future__ import annotations

import click

from omactl import __version__
from omactl.cli import COMMANDS
from omavol.cli.group import LazyGroup

__all__ = ["root", "run"]


@click.group(
    cls=LazyGroup, table=COMMANDS, package="omactl.cli", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="omactl")
def root() -> None:
    """The control plane: machines, replications and their jobs. Every option can be set by an OMA_ variable."""


def run() -> None:
    root(prog_name="omactl", auto_envvar_prefix="OMA")
