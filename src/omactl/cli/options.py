"""Options that several commands share, and where state is when nobody says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from omactl.settings import DEFAULT_OMAVOL, DEFAULT_STATE

__all__ = ["as_json", "cause_of", "database", "omavol", "remote", "state"]

F = TypeVar("F", bound=Callable[..., Any])


def default_state() -> Path:
    """/var/lib/oma/omactl for root, else under the user's own state directory (XDG base directories)."""
    if os.geteuid() == 0:
        return DEFAULT_STATE
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local/state") / "oma/omactl"


state = click.option(
    "--state",
    envvar="OMA_STATE",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_state,
    show_default="/var/lib/oma/omactl for root",
    metavar="DIR",
    help="Where the database and the admin token are.",
)
database = click.option(
    "--database",
    envvar="OMA_DATABASE",
    metavar="URL",
    help="Another database than the SQLite file in the state directory.",
)
omavol = click.option(
    "--omavol",
    envvar="OMA_OMAVOL",
    type=click.Path(path_type=Path),
    default=DEFAULT_OMAVOL,
    show_default=True,
    metavar="SOCK",
    help="The volume daemon's socket.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the API's answer as it is.")


def cause_of(error: Exception) -> str:
    """The first line of what a database driver says, without the statement around it."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def remote(command: F) -> F:
    """The options by which a command finds the running control plane and the right to speak to it."""
    for option in (
        click.option(
            "--token-file",
            envvar="OMA_TOKEN_FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="A file with the token; the admin token of the state directory otherwise.",
        ),
        state,
        click.option(
            "--url",
            envvar="OMA_URL",
            default="http://127.0.0.1:8082",
            show_default=True,
            help="Where the control plane is.",
        ),
    ):
        command = option(command)
    return command
