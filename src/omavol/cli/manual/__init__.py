"""What a command's help and its man page say beside the options: one text a command, the source of both.

`NAME.txt` here has sections: a title in capitals, then paragraphs; lines indented by four blanks are kept as they are.
Its EXAMPLES end `--help`; all of them go into the page that `pages` writes (man-pages(7)).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["Section", "epilog", "sections"]

EXAMPLES = "EXAMPLES"


class Section(NamedTuple):
    """A title and what stands under it: (is it verbatim, its lines), in order."""

    title: str
    blocks: tuple[tuple[bool, tuple[str, ...]], ...]


def sections(command: str) -> tuple[Section, ...]:
    """The sections written for a command ("serve", "exports add"); none where nobody wrote any."""
    source = Path(__file__).parent / f"{command.replace(' ', '-')}.txt"
    return _read(source.read_text()) if source.is_file() else ()


def epilog(command: str) -> str | None:
    """The examples, in the form that click leaves alone."""
    blocks = [block for section in sections(command) if section.title == EXAMPLES for block in section.blocks]
    if not blocks:
        return None
    shown = ["\b\nExamples:"]
    for verbatim, lines in blocks:
        shown.append("\n".join(f"  {line}" if verbatim else line for line in lines))
    return "\b\n" + "\n".join(shown).removeprefix("\b\n")


def _read(text: str) -> tuple[Section, ...]:
    """Cut a text into sections and blocks.

    >>> _read("NOTES\\nOne\\ntwo.\\n\\n    code\\n")
    (Section(title='NOTES', blocks=((False, ('One', 'two.')), (True, ('code',)))),)
    """
    found: list[tuple[str, list[tuple[bool, list[str]]]]] = []
    fresh = True
    for line in text.splitlines():
        if line.isupper() and not line.startswith(" "):
            found.append((line, []))
            fresh = True
        elif not line.strip():
            fresh = True
        else:
            blocks = found[-1][1]
            verbatim = line.startswith("    ")
            if fresh or blocks[-1][0] != verbatim:
                blocks.append((verbatim, []))
            blocks[-1][1].append(line[4:] if verbatim else line)
            fresh = False
    return tuple(Section(title, tuple((kind, tuple(lines)) for kind, lines in blocks)) for title, blocks in found)
