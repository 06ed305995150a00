"""What `info` and `map` share: nbdinfo's exit codes and one line for every failure."""

from __future__ import annotations

from typing import NoReturn

import click

from omavol.nbd.errors import NbdError

__all__ = ["NbdCommand", "fail", "seconds"]


class NbdCommand(click.Command):
    """Exits with 1 for every error, wrong usage included: 2 is the answer "no" (nbdinfo(1), "Test for flags")."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise click.ClickException(error.format_message()) from error


def seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """A limit that a socket takes."""
    if not 0 < value <= 86400:
        raise click.BadParameter("a number of seconds above 0, at most a day")
    return value


def fail(error: NbdError) -> NoReturn:
    """End the command with one line on stderr and status 1."""
    raise click.ClickException(f"{error}. {error.advice}" if error.advice else str(error)) from error
