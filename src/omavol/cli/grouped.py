"""A command whose `--help` puts its options under headings, as the manuals of its peers do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

__all__ = ["Group", "GroupedCommand"]


class Group:
    """Options under one heading, in the order they are given.

    >>> Group("Listening", click.Option(["--unix"])).title
    'Listening'
    """

    def __init__(self, title: str, *options: click.Option) -> None:
        self.title = title
        self.options = options


class GroupedCommand(click.Command):
    """Takes `groups` beside what a command takes."""

    def __init__(
        self,
        name: str,
        *,
        params: Sequence[click.Parameter] = (),
        groups: Sequence[Group] = (),
        **options: Any,
    ) -> None:
        grouped = [option for group in groups for option in group.options]
        super().__init__(name, params=[*params, *grouped], **options)
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The groups, then what stands in none of them (`--help`)."""
        grouped = {id(option) for group in self.groups for option in group.options}
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        rest = [option for option in options if id(option) not in grouped]
        for title, parameters in [*((group.title, group.options) for group in self.groups), ("Other", rest)]:
            records = [record for parameter in parameters if (record := parameter.get_help_record(ctx))]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
