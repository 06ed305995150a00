"""Writes the man pages: a command's own help, options and texts, in man(7)'s macros."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from omavol import __version__
from omavol.cli import COMMANDS
from omavol.cli.group import root
from omavol.cli.grouped import GroupedCommand
from omavol.cli.manual import Section, sections

__all__ = ["pages", "write"]

DATE = "2026-11-24"  # of the version


def write(directory: Path) -> None:
    """Write every page into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (directory / name).write_text(text)


def pages() -> Iterator[tuple[str, str]]:
    """The name of each page's file and its text: `omavol.1`, and one for each command."""
    context = click.Context(root, info_name="omavol", **root.context_settings)
    yield "omavol.1", _page(context, root, "omavol", "move disks over NBD, and keep the volumes of an appliance", "")
    for name, line in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        told = line[0].lower() + line[1:].rstrip(".")
        yield f"omavol-{name}.1", _page(click.Context(command, context, name), command, f"omavol-{name}", told, name)


def _page(context: click.Context, command: click.Command, page: str, line: str, key: str) -> str:
    out = [
        f'.TH {page.upper()} 1 "{DATE}" "OMA {__version__}" "User Commands"',
        ".SH NAME",
        f"{_text(page)} \\- {_text(line)}",
        ".SH SYNOPSIS",
        *_synopsis(context, command),
        ".SH DESCRIPTION",
        *_description(command),
    ]
    options = list(_options(context, command))
    if options:
        out += [".SH OPTIONS", *options]
    if isinstance(command, click.Group):
        out += list(_commands(context, command, key))
    for section in sections(key) if key else ():
        out += _section(section)
    others = [name for name in ("omavol", *(f"omavol-{name}" for name in sorted(COMMANDS))) if name != page]
    out += [".SH SEE ALSO", ",\n".join(f".BR {_text(name)} (1)" for name in others).replace(",\n", " ,\n")]
    return "\n".join(out) + "\n"


def _synopsis(context: click.Context, command: click.Command) -> list[str]:
    words = " ".join(command.collect_usage_pieces(context))
    return [f".B {_text(context.command_path)}", _text(words)]


def _description(command: click.Command) -> list[str]:
    paragraphs = inspect.cleandoc(command.help or "").replace("\b\n", "").split("\n\n")
    return [line for paragraph in paragraphs for line in (".PP", *map(_line, paragraph.splitlines()))][1:]


def _options(context: click.Context, command: click.Command) -> Iterator[str]:
    """Every option, under the headings of the help where it has some."""
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    groups = command.groups if isinstance(command, GroupedCommand) else ()
    for group in groups:
        yield f".SS {_text(group.title)}"
        yield from _records(context, group.options)
    grouped = [option for group in groups for option in group.options]
    if grouped:
        yield ".SS Other"
    yield from _records(context, [option for option in options if option not in grouped])


def _records(context: click.Context, options: Iterable[click.Option]) -> Iterator[str]:
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            spelled, told = record
            yield ".TP"
            yield f".B {_text(spelled)}"
            yield _line(told.replace("  ", " "))


def _commands(context: click.Context, group: click.Group, key: str) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, context, name)
        if not key:  # the root: each has a page of its own
            yield from (".TP", f".BR {_text(f'omavol-{name}')} (1)", _line(command.get_short_help_str(200)))
            continue
        yield from (f".SS {_text(name)}", *_synopsis(inner, command), ".PP", *_description(command))
        yield from _options(inner, command)
        for section in sections(f"{key} {name}"):
            yield from (line.replace(".SH ", ".SS ", 1) for line in _section(section))


def _section(section: Section) -> list[str]:
    out = [f".SH {_text(section.title)}"]
    first = True
    for verbatim, lines in section.blocks:
        if verbatim:
            out += [".PP", ".nf", ".RS 4", *map(_line, lines), ".RE", ".fi"]
        else:
            out += ([] if first else [".PP"]) + [*map(_line, lines)]
        first = False
    return out


def _text(text: str) -> str:
    """Escaped for roff: backslashes and hyphens as they are typed."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def _line(text: str) -> str:
    """A whole line of text: a dot or an apostrophe at its start is no request."""
    escaped = _text(text.strip() if not text.startswith("  ") else text)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
