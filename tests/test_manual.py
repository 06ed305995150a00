"""The man pages come from the commands' own help, and are as committed."""

import subprocess
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL

from omavol.cli.manual.pages import pages

PAGES = dict(pages())
COMMITTED = Path(__file__).parent.parent / "docs" / "man"


def test_the_pages_committed_are_what_the_commands_say():
    committed = {path.name: path.read_text() for path in COMMITTED.iterdir()}
    assert committed == PAGES, "write them anew: make man"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed(name):
    told = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", COMMITTED / name], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("name", [name for name in PAGES if name != "omavol.1"])
def test_every_option_of_the_help_stands_in_the_page(name):
    command = name.removeprefix("omavol-").removesuffix(".1")
    help_text = subprocess.run([OMAVOL, command, "--help"], capture_output=True, text=True, check=True).stdout
    shown = subprocess.run(["mandoc", "-T", "ascii", COMMITTED / name], capture_output=True, text=True).stdout
    plain = "".join(
        character for index, character in enumerate(shown) if character != "\b" and shown[index + 1 : index + 2] != "\b"
    )
    options = {word.rstrip(",") for word in help_text.split() if word.startswith("--") and len(word) > 2}
    assert options and all(option.split("=")[0] in plain for option in options)
