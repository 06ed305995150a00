"""A running `omavol serve` of one flavour, and the stages at which a client may turn bad."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import OMAVOL

from certificates import Pki
from omavol.nbd.wire import Command, Option
from omavol.serve.client import ControlClient
from raw_client import Raw, trusting

MIB = 1 << 20
SIZE = 4 * MIB
ENDS_WITHIN = 8.0  # seconds from SIGTERM: the drain's 2 s, and room for a busy machine
GROWTH = (512 if "ASAN_OPTIONS" in os.environ else 24) * MIB  # private memory that may stay after all tests here:
# workers' buffers and what malloc keeps, about 15 MiB; a sanitizer keeps what was freed
FLAGS = struct.pack(">I", 3)
FLAVOURS = ("file", "null", "read-only", "with-control", "tls")
EXPORT = {"with-control": "disk"}


@dataclass
class Target:
    """A server of one flavour. `content()` is what any client must read."""

    flavour: str
    process: subprocess.Popen[str]
    socket: Path
    image: Path | None
    pki: Pki | None = None  # of the flavour that demands TLS
    level: int = 0  # its private memory when it had served its first client

    @property
    def export(self) -> str:
        return EXPORT.get(self.flavour, "")

    @property
    def uri(self) -> str:
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    @property
    def writable(self) -> bool:
        return self.flavour != "read-only"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What a client enters inside of."""
        return trusting(self.pki.trusting / "ca-cert.pem") if self.pki else None

    def client(self, *, enter: bool = True, **options: bool) -> Raw:
        return Raw(self.socket, self.export, enter=enter, tls=self.tls, **options)

    def content(self) -> bytes:
        return self.image.read_bytes() if self.image else bytes(SIZE)

    def entries(self, what: str) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/{what}").iterdir())

    def private(self) -> int:
        """Bytes of memory that are the process's alone (proc(5), smaps_rollup)."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))

    def end(self) -> float:
        """SIGTERM; seconds until it had ended in order."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, "it did not end in order"
        return time.monotonic() - begun


@contextmanager
def started(flavour: str, *options: str, pki: Pki | None = None) -> Iterator[Target]:
    """Serve with more options; `pki` is for the flavour "tls" alone."""
    place = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        image = place / "image"
        image.write_bytes(os.urandom(SIZE))
        arguments: dict[str, list[object]] = {
            "file": [image],
            "null": [f"null:{SIZE}"],
            "read-only": ["-r", image],
            "with-control": ["--control", place / "control"],
            "tls": ["--tls", "require", "--tls-certificates", pki.server if pki else "", image],
        }
        argv = [OMAVOL, "serve", "--unix", str(place / "s"), *options, *map(str, arguments[flavour])]
        process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None and process.stdout.readline(), "it ended before it listened"
        if flavour == "with-control":
            with ControlClient(place / "control", timeout=20) as control, image.open("r+b") as file:
                control.add(EXPORT[flavour], file.fileno(), SIZE)
        yield Target(
            flavour, process, place / "s", None if flavour == "null" else image, pki if flavour == "tls" else None
        )


def descriptors_of(target: Target) -> int:
    """Descriptors once they rest: two looks that agree."""
    first = target.entries("fd")
    time.sleep(0.01)
    return first if first == target.entries("fd") else -1


def option(number: int, length: int, data: bytes = b"") -> bytes:
    """An option whose length is what it says, whatever it has."""
    return b"IHAVEOPT" + struct.pack(">II", number, length) + data


def go(export: str) -> bytes:
    name = export.encode()
    return struct.pack(">I", len(name)) + name + bytes(2)


def _replies_in_flight(client: Raw, target: Target) -> None:
    client.enter(target.export, True)
    client.say(*(client.pack(Command.READ, 0, SIZE, cookie=n) for n in range(16)))


# How far a client comes before it turns bad; each is given a connection that has said nothing.
STAGES: Mapping[str, Callable[[Raw, Target], object]] = {
    "nothing said": lambda client, _: None,
    "half its flags": lambda client, _: client.say(FLAGS[:2]),
    "flags said": lambda client, _: client.say(FLAGS),
    "half an option's header": lambda client, _: client.say(FLAGS, option(Option.GO, 100)[:9]),
    "an option without its data": lambda client, _: client.say(FLAGS, option(Option.GO, 100, b"half")),
    "structured replies asked for": lambda client, _: client.say(FLAGS, option(Option.STRUCTURED_REPLY, 0)),
    "an unknown option": lambda client, _: client.say(FLAGS, option(77, 3, b"abc")),
    "entered": lambda client, target: client.enter(target.export, True),
    "half a request": lambda client, target: (
        client.enter(target.export, False),
        client.say(client.pack(Command.READ, 0, 512)[:13]),
    ),
    "half a payload": lambda client, target: (
        client.enter(target.export, False),
        client.say(client.pack(Command.WRITE, SIZE - MIB, MIB), target.content()[SIZE - MIB : SIZE - MIB // 2]),
    ),
    "replies in flight": _replies_in_flight,
}
