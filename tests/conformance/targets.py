"""The servers and clients whose results are recorded: ours, and the peers in both generations."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import OMAVOL

from peers import INSTALLED, NEWEST, Peers

__all__ = ["CLIENTS", "SERVERS", "UNSTEADY", "Target"]

HERE = Path(__file__).parent
_NBD_SERVER = """[generic]
unixsock = {socket}
allowlist = true
[export]
exportname = {image}
flush = true
fua = true
trim = true
"""


@dataclass(frozen=True)
class Target:
    """One column of a table: `argv` for --server or --client; of one generation of peers, or our own."""

    program: str
    peers: Peers | None
    kind: str  # "server" or "client"
    timeout: int = 10  # seconds

    @property
    def name(self) -> str:
        """Of its column and of its file."""
        return f"{self.program} ({self.peers.label})" if self.peers else self.program

    @property
    def file(self) -> Path:
        return HERE / "recorded" / f"{self.name.replace(' ', '-').replace('(', '').replace(')', '')}.json"

    def arguments(self, patience: int = 1) -> list[str]:
        """Of `omavol conformance`, its limits so many times as long."""
        more = ["--export", "export"] if self.program == "nbd-server" else []
        return [f"--{self.kind}", shlex.join(self._argv()), "--timeout", str(patience * self.timeout), *more]

    def _argv(self) -> list[str]:
        own = OWN.get(self.program)
        if own:
            return own
        assert self.peers is not None
        if self.program == "nbdkit":
            return self.peers.nbdkit("-U", "{socket}", "file", "{image}")
        if self.program == "nbd-server":
            return self._nbd_server(self.peers)
        program, *arguments = COMMANDS[self.program]
        environment = [f"QEMU_MODULE_DIR={self.peers.environment().get('QEMU_MODULE_DIR', '')}"]
        wrapper = ["env", *environment] if self.peers.newest and program.startswith("qemu") else []
        return [*wrapper, *self.peers.command(program, *arguments)]

    def _nbd_server(self, peers: Peers) -> list[str]:
        """nbd-server detaches, and takes a file of settings."""
        command = shlex.join(peers.command("nbd-server", "-C", "{folder}/c", "-p", "{folder}/pid"))
        hold = shlex.join([sys.executable, str(HERE / "hold.py")])
        settings = _NBD_SERVER.replace("\n", "\\n")
        return ["sh", "-c", f"printf '{settings}' > {{folder}}/c; exec {hold} {{folder}}/pid {command}"]


COPY = [sys.executable, str(HERE / "own_copy.py")]  # `omavol copy` with a limit of 2 s, not of 60 s
OWN = {
    "omavol serve": [OMAVOL, "serve", "--unix", "{socket}", "{image}"],
    "omavol copy, from": [*COPY, "{uri}", "null:"],
    "omavol copy, to": [*COPY, "{image}", "{uri}"],
}
COMMANDS = {
    "qemu-nbd": ("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", "{socket}", "{image}"),
    "nbdcopy, from": ("nbdcopy", "{uri}", "null:"),
    "nbdcopy, to": ("nbdcopy", "--flush", "{image}", "{uri}"),
    "nbdinfo --list": ("nbdinfo", "--list", "{uri}"),
    "qemu-img compare": ("qemu-img", "compare", "-f", "raw", "-F", "raw", "{uri}", "{image}"),
    "qemu-img convert, to": ("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "{image}", "{uri}"),
}
_BOTH = (INSTALLED, NEWEST)
# What a peer does now and then: a race in it decides.
_AFTER_DISC = {"X52-disconnect", "X52-writes-before-disc", "X53-reads-before-disc", "X53-nothing-behind-disc"}
UNSTEADY = {
    "nbdkit (debian 12)": {"X54-gone-with-replies-in-flight"},
    "nbdkit (newest)": {"X54-gone-with-replies-in-flight", *_AFTER_DISC},
    "qemu-nbd (debian 12)": {"X53-reads-before-disc"},
    "qemu-nbd (newest)": {"X53-reads-before-disc"},
    "omavol copy, to": {"huge-size"},  # refused at once: it may be gone before the server has seen it enter
}

SERVERS = (
    Target("omavol serve", None, "server"),
    *(Target(name, peers, "server") for name in ("nbdkit", "qemu-nbd", "nbd-server") for peers in _BOTH),
)
CLIENTS = (
    *(Target(name, None, "client", 15) for name in ("omavol copy, from", "omavol copy, to")),
    *(Target(name, peers, "client") for name in list(COMMANDS)[1:] for peers in _BOTH),
)
