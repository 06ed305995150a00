"""Starts the server of `--server CMD`, sees how it dies, and starts it again: so that one death hides no other rule."""

from __future__ import annotations

import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from omavol.conformance.verdict import CannotRun
from omavol.nbd.uri import Uri

__all__ = ["IMAGE_SIZE", "Keeper", "how_it_ended", "make_image"]

IMAGE_SIZE = 40 << 20  # bytes: more than the default maximum payload of 32 MiB
_START = 30.0  # seconds
_STOP = 5.0


def make_image(path: Path) -> None:
    """A sparse image: data in its first 2 MiB, half a MiB at 8 MiB and the last 64 KiB."""
    with path.open("wb") as file:
        for offset, length in ((0, 2 << 20), (8 << 20, 1 << 19), (IMAGE_SIZE - 65536, 65536)):
            file.seek(offset)
            file.write(bytes(range(1, 256)) * (length // 255) + b"\xff" * (length % 255))


def how_it_ended(status: int) -> str:
    """An exit status in words.

    >>> how_it_ended(-6), how_it_ended(1)
    ('killed by SIGABRT', 'exit status 1')
    """
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


class Keeper:
    """A server of our own, from a command with {socket}, {image} and {folder} in it. One thread."""

    def __init__(self, command: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="omavol-conformance-"))
        self.socket = self.folder / "nbd.sock"
        self.image = self.folder / "disk.img"
        places = {"{socket}": self.socket, "{image}": self.image, "{folder}": self.folder}
        self._argv = shlex.split(command)
        for name, path in places.items():
            self._argv = [word.replace(name, str(path)) for word in self._argv]
        self._process: subprocess.Popen[bytes] | None = None
        make_image(self.image)

    def uri(self, export: str) -> Uri:
        return Uri(socket=str(self.socket), export=export)

    def start(self) -> None:
        """Start it and wait until it can be connected to; CannotRun if that never happens."""
        self.socket.unlink(missing_ok=True)
        try:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise CannotRun(f"{self._argv[0]}: {error.strerror}") from error
        until = time.monotonic() + _START
        while not self._listens():
            if (status := self._process.poll()) is not None:
                raise CannotRun(f"{shlex.join(self._argv)}: ended before it listened: {how_it_ended(status)}")
            if time.monotonic() > until:
                raise CannotRun(f"{shlex.join(self._argv)}: nothing listens on {self.socket} after {_START:g} s")
            time.sleep(0.01)  # a stranger's server tells in no other way

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def death(self) -> str | None:
        """How the server ended, None while it lives."""
        status = self._process.poll() if self._process else None
        return None if status is None else how_it_ended(status)

    def restart(self) -> None:
        self._end()
        self.start()

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)
