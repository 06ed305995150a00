"""The peers, as Debian 12 has them installed and as the newest packages have them (scripts/newest-peers).

    NEWEST.command("nbdcopy", uri, "null:")                 argv of a program
    NEWEST.nbdkit("--filter=delay", "file", path)           the same with paths to its plugins and filters
    NEWEST.environment()                                    what its programs need in their environment

The newest are unpacked beside the system, not installed, and run by their own loader and libraries: no root, no chroot.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["INSTALLED", "NEWEST", "Peers"]

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib/x86_64-linux-gnu/ceph")  # what run paths name, too
_FETCH = Path(__file__).parent.parent / "scripts" / "newest-peers"


@functools.cache
def _fetched() -> Path:
    """Where the newest are; they are fetched on the first call (some 15 s)."""
    done = subprocess.run([_FETCH], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


@dataclass(frozen=True)
class Peers:
    """One generation of peers; `label` tells it apart in tables and test ids."""

    label: str
    newest: bool

    @property
    def root(self) -> Path:
        return _fetched() if self.newest else Path("/")

    def command(self, program: str, *arguments: object) -> list[str]:
        """The argv that runs `program` (a name in /usr/bin or /usr/sbin)."""
        where = next((self.root / room / program for room in ("usr/bin", "usr/sbin") if self._has(room, program)), None)
        if where is None:
            raise FileNotFoundError(f"{program} is not among the {self.label} peers")
        return [*self._loader(where), *map(str, arguments)]

    def nbdkit(self, *arguments: object) -> list[str]:
        """nbdkit in the foreground; plugins and filters are named as usual, `--filter=NAME` and a bare plugin name."""
        return self.command("nbdkit", "-f", *map(self._part, map(str, arguments)))

    def python(self, *arguments: object) -> list[str]:
        """The interpreter that has libnbd's `nbd` module."""
        return self.command("python3", *arguments)

    def environment(self) -> Mapping[str, str]:
        """The environment of this process with what the programs of this generation need."""
        if not self.newest:
            return dict(os.environ)
        return {
            **os.environ,
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": str(self.root / "usr/lib/python3/dist-packages"),
            "QEMU_MODULE_DIR": str(self.root / "usr/lib/x86_64-linux-gnu/qemu"),
        }

    def _has(self, room: str, program: str) -> bool:
        return (self.root / room / program).exists()

    def _loader(self, program: Path) -> list[str]:
        if not self.newest:
            return [str(program)]
        libraries = ":".join(str(self.root / library) for library in _LIBRARIES)
        return [str(self.root / "lib64/ld-linux-x86-64.so.2"), "--library-path", libraries, str(program)]

    def _part(self, argument: str) -> str:
        """A filter or plugin by its path: the built-in directory is the installed nbdkit's."""
        if not self.newest:
            return argument
        room = self.root / "usr/lib/x86_64-linux-gnu/nbdkit"
        option, _, name = argument.rpartition("=")
        if option == "--filter":
            return f"--filter={room}/filters/nbdkit-{name}-filter.so"
        plugin = room / f"plugins/nbdkit-{argument}-plugin.so"
        return str(plugin) if plugin.exists() else argument


INSTALLED = Peers("debian 12", newest=False)
NEWEST = Peers("newest", newest=True)
